# Loads and stores over 64 KiB, 8 instructions an iteration, 4 of which touch memory.
# void bench_loop(u64 count, void *buffer)
.text
.p2align 4, 0x90
bench_loop:
    xor eax, eax
.Lmemory:
    mov rcx, [rsi+rax]
    add rcx, rdi
    mov [rsi+rax], rcx
    add [rsi+rax+8], rcx
    add eax, 24
    and eax, 0xfff8
    dec rdi
    jnz .Lmemory
    ret
