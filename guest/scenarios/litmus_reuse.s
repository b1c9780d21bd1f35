# A thread exits and the next one gets its addresses (exit_reuse.s), without a kernel around it: B has
# read an item on the old one's stack, and reads the new one's at the same address.
#
# Words: 0 address of the item, 8 B has read the first, 16 published again.
.equ FIRST,         0x1111
.equ SECOND,        0x2222

.text
litmus_a:                               # CPU 0
    L_DEEP 0
    L_ADDRESS rbx, 0, LITMUS_DEEP
    L_PUBLISH 0, FIRST
    L_AWAIT 8, 1                        # B has read it
    L_CALL HYPER_EXIT_THREAD, 0         # A is gone
    L_CREATE 1, 0                       # D gets its stack area
    L_DEEP 1
    L_PUBLISH_AGAIN 1, SECOND
    jmp litmus_end

litmus_b:                               # CPU 1
    L_READ_FIRST FIRST
    L_AWAIT 16, 1
    cmp qword ptr [rbx], SECOND         # the access in question
    jne litmus_wrong
    jmp litmus_end

.section .rodata
scenario_name:
    .asciz "litmus-reuse"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .quad 1
litmus_programs:
    .quad litmus_a, litmus_b, 0
