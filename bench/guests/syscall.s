# A ring-3 program that calls echo(): SYSCALL, the kernel's entry and exit, SYSRET.
.text
scenario_main:
    xor edi, edi
    mov rsi, [rip+bench_count]
    xor edx, edx
    lea rcx, [rip+bench_program]
    call thread_create
    mov rdi, rax
    jmp thread_join
.p2align 12, 0x90
bench_program:                          # rdi = count
    mov rbx, rdi
.Lsyscall_loop:
    mov eax, SYS_ECHO
    syscall
    dec rbx
    jnz .Lsyscall_loop
    xor edi, edi
    mov eax, SYS_EXIT
    syscall
.p2align 12, 0x90
bench_program_end:
