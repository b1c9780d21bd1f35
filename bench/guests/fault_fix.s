# A page fault whose handler makes the page present; the loop takes it away again (store, INVLPG).
.text
scenario_main:
    push rbx
    lea rdi, [rip+bench_fault]
    call bench_own_fault
    mov rbx, [rip+bench_count]
    lea rcx, [rip+bench_page]
    lea rdx, [rip+bench_page]
    movabs rax, KERNEL_BASE
    sub rdx, rax
    shr rdx, 12
    movabs rax, DIRECT_BASE
    lea rdx, [rax+rdx*8+KERNEL_PT]      # its PTE
.Lfault_loop:
    btr qword ptr [rdx], 0
    invlpg [rcx]
    mov [rcx], rax
    dec rbx
    jnz .Lfault_loop
    xor eax, eax
    pop rbx
    ret
.p2align 4, 0x90
bench_fault:
    bts qword ptr [rdx], 0
    add rsp, 8                          # error code
    iretq
.bss
.p2align 12
bench_page:
    .zero 4096
