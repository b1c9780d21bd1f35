# A thread exits and the next one gets its addresses (exit_reuse.s), without a kernel around it: B has
# read an item on the old one's stack, and reads the new one's at the same address.
#
# Words: 0 address of the item, 8 B has read the first, 16 published again.
.equ FIRST,         0x1111
.equ SECOND,        0x2222

.text
litmus_a:                               # CPU 0
    L_SWITCH_IN 0
    L_ENTER 0
    L_REQUEST 0, LITMUS_DEEP
    L_ADDRESS rbx, 0, LITMUS_DEEP
    mov qword ptr [rbx], FIRST
    L_SHARE 0
    mov [r15], rbx                      # published
.La_wait:
    cmp qword ptr [r15+8], 1            # B has read it
    jne .La_wait
    L_CALL HYPER_EXIT_THREAD, 0         # A is gone
    L_ADDRESS rsi, 0, STACK_BYTES       # D gets its stack area
    mov edx, STACK_BYTES
    mov ecx, 1
    L_CALL HYPER_CREATE_THREAD, 1
    test eax, eax
    jz litmus_end                       # no memory
    L_SWITCH_IN 1
    L_ENTER 1
    L_REQUEST 1, LITMUS_DEEP
    mov qword ptr [rbx], SECOND
    L_SHARE 1
    mov qword ptr [r15+16], 1           # published again
    jmp litmus_end

litmus_b:                               # CPU 1
    mov rbx, [r15]
    test rbx, rbx
    jz litmus_b
    mov rax, [rbx]
    mov qword ptr [r15+8], 1
    cmp rax, FIRST
    jne litmus_wrong
.Lb_wait:
    cmp qword ptr [r15+16], 1
    jne .Lb_wait
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
