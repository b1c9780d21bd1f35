# Laight's scenario (laight.s) without a kernel around it: A's item is read by B, A leaves, C takes A's
# frames, A comes back to other frames and publishes at the same address, B reads again.
#
# Words: 0 address of A's item, round by round (published), 8 B has read the first.
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
    cmp qword ptr [r15+8], 1            # B has read it: it comes off the list
    jne .La_wait
    L_EXIT 0
    L_SWITCH_OUT 0, 256
    L_SWITCH_IN 1                       # C takes what is free now, and sleeps deep
    L_ENTER 1
    L_REQUEST 1, LITMUS_DEEP
    L_ADDRESS rcx, 1, LITMUS_DEEP
    mov [rcx], rcx
    L_SWITCH_OUT 1, 0x3800
    L_SWITCH_IN 0
    L_ENTER 0
    L_REQUEST 0, LITMUS_DEEP
    mov qword ptr [rbx], SECOND
    L_SHARE 0
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
    .asciz "litmus-laight"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .quad 2
litmus_programs:
    .quad litmus_a, litmus_b, 0
