# Two stacks go one after the other on CPU 0, which has been on both, and CPU 1, which has read both, goes through a switch
# of its own meanwhile: whoever invalidates at its own switches has to know of how much.
#
# Words: 0 address of A's item, 24 of C's (published), 8 B has read both, 32 B has been switched, 16 published again.
.equ FIRST,         0x1111
.equ SECOND,        0x2222

.text
litmus_a:                               # CPU 0
    L_DEEP 1
    L_ADDRESS r12, 1, LITMUS_DEEP
    mov qword ptr [r12], FIRST
    L_SHARE 1
    mov [r15+24], r12
    L_SWITCH_OUT 1, LITMUS_DEEP+256     # it sleeps deep
    L_DEEP 0
    L_ADDRESS rbx, 0, LITMUS_DEEP
    L_PUBLISH 0, FIRST
    L_AWAIT 8, 1                        # B has read both
    L_EXIT 0
    L_SWITCH_OUT 0, 256
    L_SWITCH_IN 1
    L_EXIT 1
    L_SWITCH_OUT 1, 256
    L_AWAIT 32, 1
    L_TAKE_FRAMES 2
    L_DEEP 1
    mov qword ptr [r12], SECOND
    L_SWITCH_OUT 1, LITMUS_DEEP+256
    L_DEEP 0
    L_PUBLISH_AGAIN 0, SECOND
    jmp litmus_end

litmus_b:                               # CPU 1
    mov r12, [r15+24]
    test r12, r12
    jz litmus_b
    cmp qword ptr [r12], FIRST
    jne litmus_wrong
    L_READ_FIRST FIRST
    L_SWITCH_OUT 3, 64                  # a thread of its own
    L_SWITCH_IN 3
    mov qword ptr [r15+32], 1
    L_AWAIT 16, 1
    cmp qword ptr [r12], SECOND         # the accesses in question
    jne litmus_wrong
    cmp qword ptr [rbx], SECOND
    jne litmus_wrong
    jmp litmus_end

.section .rodata
scenario_name:
    .asciz "litmus-catch-up"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .long 4, 2*PAGE_SIZE
litmus_programs:
    .quad litmus_a, litmus_b, 0
