# A page that has been mapped and never touched is taken while B reads it for the first time: B's walk sets Accessed, or
# finds the page gone, and nothing orders the two. (walker_race.s, without a kernel around it; nothing speculates here
# unless the mode says so.)
#
# What B reads does not matter, nor that it faults: it catches that. It must not read a frame that is somebody else's by
# now.
#
# Words: 0 address of the page's word, 8 C has taken what it wants.
.text
litmus_a:                               # CPU 0
    L_DEEP 0
    L_ADDRESS rbx, 0, LITMUS_DEEP
    mov [r15], rbx
    L_EXIT 0
    L_SWITCH_OUT 0, 256
    L_DEEP 1                            # C takes what is free now, and writes there
    L_ADDRESS rcx, 1, LITMUS_DEEP
    mov [rcx], rcx
    mov qword ptr [r15+8], 1
    jmp litmus_end

litmus_b:                               # CPU 1
    mov rbx, [r15]
    test rbx, rbx
    jz litmus_b
    lea rdi, [rip+litmus_walk]
    mov rsi, rbx
    call try_call
    L_AWAIT 8, 1                        # it answers shootdowns to the end
    jmp litmus_end

# void litmus_walk(u64 *word)
# Look once, and again when C is there.
litmus_walk:
    mov rax, [rdi]                      # the walk in question
    L_AWAIT 8, 1
    mov rax, [rdi]
    ret

.section .rodata
scenario_name:
    .asciz "litmus-walker"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .long 2, 2*PAGE_SIZE
litmus_programs:
    .quad litmus_a, litmus_b, 0
