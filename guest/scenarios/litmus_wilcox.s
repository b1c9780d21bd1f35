# Wilcox's objection (wilcox.s) without a kernel around it: B writes its answer into A's item, in two
# rounds with other frames at one address. The last access is a *write* through what CPU 1 has cached.
#
# Words: 0 address of A's item, 8 B has answered, 16 second round published, 24 B has answered again.
.equ FIRST,         0x1111
.equ SECOND,        0x2222
.equ ANSWER,        0x100               # what B adds

.text
litmus_a:                               # CPU 0
    L_SWITCH_IN 0
    L_ENTER 0
    L_REQUEST 0, LITMUS_DEEP
    L_ADDRESS rbx, 0, LITMUS_DEEP
    mov qword ptr [rbx], FIRST
    L_SHARE 0
    mov [r15], rbx                      # published
.La_first:
    cmp qword ptr [r15+8], 1
    jne .La_first
    cmp qword ptr [rbx+8], FIRST+ANSWER
    jne litmus_wrong
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
.La_second:
    cmp qword ptr [r15+24], 1
    jne .La_second
    cmp qword ptr [rbx+8], SECOND+ANSWER
    jne litmus_wrong                    # B's write went elsewhere
    jmp litmus_end

litmus_b:                               # CPU 1
    mov rbx, [r15]
    test rbx, rbx
    jz litmus_b
    mov rax, [rbx]
    add rax, ANSWER
    mov [rbx+8], rax
    mov qword ptr [r15+8], 1
.Lb_wait:
    cmp qword ptr [r15+16], 1
    jne .Lb_wait
    mov qword ptr [rbx+8], SECOND+ANSWER # the access in question
    mov qword ptr [r15+24], 1
    jmp litmus_end

.section .rodata
scenario_name:
    .asciz "litmus-wilcox"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .quad 2
litmus_programs:
    .quad litmus_a, litmus_b, 0
