# A page fault whose handler skips the instruction: delivery and return, nothing else.
.text
scenario_main:
    push rbx
    lea rdi, [rip+bench_fault]
    call bench_own_fault
    mov rbx, [rip+bench_count]
    movabs rcx, 0x100000000000          # never mapped
.Lfault_loop:
    mov rax, [rcx]                      # 3 bytes
    dec rbx
    jnz .Lfault_loop
    xor eax, eax
    pop rbx
    ret
.p2align 4, 0x90
bench_fault:
    add rsp, 8                          # error code
    add qword ptr [rsp], 3
    iretq
