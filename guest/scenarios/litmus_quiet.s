# Pages never touched, then touched and shared (shallow-then-deep), without a kernel around it: in its
# first round A is in the kernel and touches nothing deep; what it was given goes, C takes it, A gets
# other frames and publishes. CPU 1 has never accessed the page before: what it has cached, it has
# cached by speculation.
#
# Words: 0 address of A's item (published).
.equ SECOND,        0x2222

.text
litmus_a:                               # CPU 0
    L_DEEP 0
    L_ADDRESS rbx, 0, LITMUS_DEEP
    L_EXIT 0
    L_SWITCH_OUT 0, 256
    L_TAKE_FRAMES 1
    L_DEEP 0
    L_PUBLISH 0, SECOND
    jmp litmus_end

litmus_b:                               # CPU 1
    mov rbx, [r15]
    test rbx, rbx
    jz litmus_b
    cmp qword ptr [rbx], SECOND         # the access in question
    jne litmus_wrong
    jmp litmus_end

.section .rodata
scenario_name:
    .asciz "litmus-quiet"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .quad 2
litmus_programs:
    .quad litmus_a, litmus_b, 0
