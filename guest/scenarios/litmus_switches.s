# Two threads are switched out at once on two CPUs, and a third has read both stacks: two requests to invalidate meet
# there. It waits with interrupts off for a while, and on again in between, as a kernel does in its critical sections.
#
# Words: 0 address of A's item, 8 B has read the first, 16 published again, 24 C is switched out, 32 C is deep.
.equ FIRST,         0x1111
.equ SECOND,        0x2222

.text
litmus_a:                               # CPU 0
    L_DEEP 0
    L_ADDRESS rbx, 0, LITMUS_DEEP
    L_AWAIT 32, 1
    L_PUBLISH 0, FIRST
    L_AWAIT 8, 1                        # B has read it
    L_EXIT 0
    L_SWITCH_OUT 0, 256
    L_AWAIT 24, 1                       # C is switched out, and has its answers
    L_TAKE_FRAMES 2
    L_DEEP 0
    L_PUBLISH_AGAIN 0, SECOND
    jmp litmus_end

litmus_b:                               # CPU 1
    L_READ_FIRST FIRST
    L_AWAIT_OFF 16, 1
    cmp qword ptr [rbx], SECOND         # the access in question
    jne litmus_wrong
    sti
    L_AWAIT 24, 1
    jmp litmus_end

litmus_c:                               # CPU 2
    L_DEEP 1
    L_ADDRESS rbx, 1, LITMUS_DEEP
    mov qword ptr [rbx], FIRST
    L_SHARE 1
    mov qword ptr [r15+32], 1
    L_AWAIT 8, 1
    L_EXIT 1
    L_SWITCH_OUT 1, 256
    mov qword ptr [r15+24], 1
    L_AWAIT 16, 1
    jmp litmus_end

.section .rodata
scenario_name:
    .asciz "litmus-switches"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .long 3, 2*PAGE_SIZE
litmus_programs:
    .quad litmus_a, litmus_b, litmus_c, 0
