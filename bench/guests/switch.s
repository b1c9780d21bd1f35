# Two kernel threads on one CPU that yield to each other through the scheduler: two switches an iteration.
.text
scenario_main:
    push rbx
    push r12
    call .Lswitch_thread
    mov rbx, rax
    call .Lswitch_thread
    mov r12, rax
    mov rdi, rbx
    call thread_join
    mov rdi, r12
    call thread_join
    xor eax, eax
    pop r12
    pop rbx
    ret
.Lswitch_thread:
    lea rdi, [rip+bench_yield]
    xor esi, esi
    xor edx, edx
    xor ecx, ecx
    jmp thread_create
bench_yield:
    push rbx
    mov rbx, [rip+bench_count]
.Lswitch_loop:
    call schedule
    dec rbx
    jnz .Lswitch_loop
    xor eax, eax
    pop rbx
    ret
