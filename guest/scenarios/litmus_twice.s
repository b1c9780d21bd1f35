# Laight's scenario (litmus_laight.s), and A is switched out again and again before it goes deep: what is looked at, or
# marked, the first time and taken the next.
#
# Words: 0 address of A's item (published), 8 B has read the first, 16 published again.
.equ FIRST,         0x1111
.equ SECOND,        0x2222

.text
litmus_a:                               # CPU 0
    L_DEEP 0
    L_ADDRESS rbx, 0, LITMUS_DEEP
    L_PUBLISH 0, FIRST
    L_AWAIT 8, 1                        # B has read it
    L_EXIT 0
    L_SWITCH_OUT 0, 256
    L_SWITCH_IN 0
    L_SWITCH_OUT 0, 256
    L_SWITCH_IN 0
    L_SWITCH_OUT 0, 256
    L_TAKE_FRAMES 1
    L_DEEP 0
    L_PUBLISH_AGAIN 0, SECOND
    jmp litmus_end

litmus_b:                               # CPU 1
    L_READ_FIRST FIRST
    L_AWAIT 16, 1
    cmp qword ptr [rbx], SECOND         # the access in question
    jne litmus_wrong
    jmp litmus_end

.section .rodata
scenario_name:
    .asciz "litmus-twice"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .long 2, 2*PAGE_SIZE
litmus_programs:
    .quad litmus_a, litmus_b, 0
