# Arithmetic in registers, 12 instructions an iteration.
# void bench_loop(u64 count, void *buffer)
.text
.p2align 4, 0x90
bench_loop:
    mov eax, 1
    mov ecx, 3
.Lcompute:
    add rax, rcx
    lea rdx, [rax+rcx*2]
    xor rcx, rdx
    shl rdx, 3
    sub rax, rdx
    rol rcx, 7
    and rdx, rax
    or rcx, rdx
    imul rax, rcx
    inc rcx
    dec rdi
    jnz .Lcompute
    ret
