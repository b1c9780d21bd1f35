# Items on the second and on the deepest page of one stack, read by another CPU, and the stack again in other frames: what
# is invalidated must be all of what went (litmus_laight.s asks for one page in the middle).
#
# Words: 0 address of the first item (published), 8 B has read both, 16 published again.
.equ FIRST,         0x1111
.equ SECOND,        0x2222
.equ DEEPEST,       0x3800              # bytes from the top to the middle of the fourth page
.text
litmus_a:                               # CPU 0
    L_SWITCH_IN 0
    L_ENTER 0
    L_REQUEST 0, STACK_BYTES
    L_ADDRESS rcx, 0, DEEPEST
    mov qword ptr [rcx], FIRST
    L_ADDRESS rbx, 0, LITMUS_DEEP
    L_PUBLISH 0, FIRST
    L_AWAIT 8, 1
    L_EXIT 0
    L_SWITCH_OUT 0, 256
    L_SWITCH_IN 1                       # another thread takes what is free now
    L_ENTER 1
    L_REQUEST 1, STACK_BYTES
    L_ADDRESS rcx, 1, DEEPEST
    mov [rcx], rcx
    L_SWITCH_OUT 1, 0x3900
    L_SWITCH_IN 0
    L_ENTER 0
    L_REQUEST 0, STACK_BYTES
    L_ADDRESS rcx, 0, DEEPEST
    mov qword ptr [rcx], SECOND
    L_PUBLISH_AGAIN 0, SECOND
    jmp litmus_end

litmus_b:                               # CPU 1
    mov rbx, [r15]
    test rbx, rbx
    jz litmus_b
    lea rdi, [rbx-DEEPEST+LITMUS_DEEP]
    cmp qword ptr [rdi], FIRST
    jne litmus_wrong
    cmp qword ptr [rbx], FIRST
    jne litmus_wrong
    mov qword ptr [r15+8], 1
    L_AWAIT 16, 1
    cmp qword ptr [rdi], SECOND         # the accesses in question
    jne litmus_wrong
    cmp qword ptr [rbx], SECOND
    jne litmus_wrong
    jmp litmus_end

.section .rodata
scenario_name:
    .asciz "litmus-deepest"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .quad 2
litmus_programs:
    .quad litmus_a, litmus_b, 0
