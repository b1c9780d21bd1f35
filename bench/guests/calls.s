# Calls and returns with a register saved, 10 instructions an iteration.
# void bench_loop(u64 count, void *buffer)
.text
.p2align 4, 0x90
bench_loop:
    call .Lcallee
    call .Lcallee
    dec rdi
    jnz bench_loop
    ret
.p2align 4, 0x90
.Lcallee:
    push rbx
    pop rbx
    ret
