# Laight's scenario (laight.s) without a kernel around it: A's item is read by B, A leaves, C takes A's
# frames, A comes back to other frames and publishes at the same address, B reads again.
#
# Words: 0 address of A's item, round by round (published), 8 B has read the first.
.equ FIRST,         0x1111
.equ SECOND,        0x2222

.text
litmus_a:                               # CPU 0
    L_DEEP 0
    L_ADDRESS rbx, 0, LITMUS_DEEP
    L_PUBLISH 0, FIRST
    L_AWAIT 8, 1                        # B has read it: it comes off the list
    L_EXIT 0
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
    .asciz "litmus-laight"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .quad 2
litmus_programs:
    .quad litmus_a, litmus_b, 0
