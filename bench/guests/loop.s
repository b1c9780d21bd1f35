# A kernel thread that runs bench_loop.
.text
scenario_main:
    mov rdi, [rip+bench_count]
    lea rsi, [rip+bench_buffer]
    call bench_loop
    xor eax, eax
    ret
.bss
.p2align 12
bench_buffer:
    .zero 73728
