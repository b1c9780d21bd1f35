# Wilcox's objection (wilcox.s) without a kernel around it: B writes its answer into A's item, in two
# rounds with other frames at one address. The last access is a *write* through what CPU 1 has cached.
#
# Words: 0 address of A's item, 8 B has answered, 16 second round published, 24 B has answered again.
.equ FIRST,         0x1111
.equ SECOND,        0x2222
.equ ANSWER,        0x100               # what B adds

.text
litmus_a:                               # CPU 0
    L_DEEP 0
    L_ADDRESS rbx, 0, LITMUS_DEEP
    L_PUBLISH 0, FIRST
    L_AWAIT 8, 1
    cmp qword ptr [rbx+8], FIRST+ANSWER
    jne litmus_wrong
    L_EXIT 0
    L_SWITCH_OUT 0, 256
    L_TAKE_FRAMES 1
    L_DEEP 0
    L_PUBLISH_AGAIN 0, SECOND
    L_AWAIT 24, 1
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
    L_AWAIT 16, 1
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
