# CPU 0 has CPU 1 run a function by IPI and waits for it.
.text
scenario_main:
    push rbx
    mov rbx, [rip+bench_count]
.Lipi_loop:
    mov edi, 1
    lea rsi, [rip+bench_nothing]
    xor edx, edx
    call cross_call
    dec rbx
    jnz .Lipi_loop
    xor eax, eax
    pop rbx
    ret
bench_nothing:
    ret
