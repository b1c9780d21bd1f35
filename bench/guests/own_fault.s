# void bench_own_fault(void *handler)
# Point the gate of #PF at another handler (SDM 6.14.1).
.text
bench_own_fault:
    sub rsp, 16
    sidt [rsp]
    mov rax, [rsp+2]
    add rsp, 16
    mov word ptr [rax+224], di
    shr rdi, 16
    mov word ptr [rax+230], di
    shr rdi, 16
    mov dword ptr [rax+232], edi
    ret
