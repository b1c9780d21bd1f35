# Instruction forms that kernels use, one a line: compared byte for byte with GNU as.
start:
    .equ K, 5
    .equ BIG, 0x12345678
    .equ NEG, -16
    mov eax, K
    mov rax, [rbx+K*8]
    mov rax, [rbx-K]
    mov rax, [rbx+rcx*8+end-start]
    cmp qword ptr [rip+var], K
    mov dword ptr [rip+var], 0x12345678
    mov byte ptr [rip+var+1], 1
    mov word ptr [rip+var], K
    lea rsi, [rip+var]
    lea rsi, [rip+end]
    mov rax, offset var
    mov eax, offset end-start
    mov ecx, end-start
    cmp rcx, end-start
    movabs rax, offset var
    movabs rax, 0x123456789abcdef0
    mov rcx, [var]
    mov [var+8], rcx
    mov rcx, [table+rax*8]
    jmp [table+rax*8]
    call [table+rax*8]
    jmp qword ptr [rip+table]
    call qword ptr [rip+table]
    push offset var
    add rax, offset var
    cmp rbx, offset var
    mov qword ptr [rip+table], offset var
    mov rax, gs:[K]
    mov gs:[K+8], rax
    mov qword ptr gs:[16], 0
    add qword ptr gs:[24], NEG
    inc dword ptr gs:[K*4]
    mov rdx, gs:[rax+K]
    test byte ptr [rdi+K], 1<<3
    and rsp, -16
    and eax, ~0xf
    or rax, 1<<8
    mov ecx, 0xc0000080
    mov edx, BIG>>8
    sub rsp, K*8+8
    call start
    jmp end
    je start
    jne end
    jrcxz .Lnear
    loop .Lnear
.Lnear:
    lock bts qword ptr [rip+var], 3
    lock cmpxchg [rip+var], rcx
    xchg rax, [rip+var]
    lock xadd [rip+var], eax
    .align 16, 0xcc
    lgdt [rip+var]
    lidt [rip+var]
    rep stosq
    rep movsq
    repne scasb
    lock add word ptr [rax], 1
    mov al, [rip+var]
    mov [rip+var], r15b
    mov spl, [rsi]
    movzx r8d, byte ptr [rip+var]
    movsxd rcx, dword ptr [table+rcx*4]
    imul rcx, [rip+var], 48
    imul ecx, edx, 0x1000
    bt [rip+var], rax
    xor r9d, r9d
    mov r10, r9
    push r15
    pop rbp
    test rdi, rdi
    cmp byte ptr [r12], 0
    mov rax, [r12+r13*2]
    mov rax, [rbp+rcx]
    mov rax, [rcx*8]
    mov rax, [rcx*8+var]
    mov cr0, rax
    mov rcx, cr2
    mov rax, cr4
    mov dr0, r8
    xchg r8, rax
    xchg eax, eax
    xchg ecx, edx
    xchg bl, [rax]
    nop
    ltr cx
    mov fs, ecx
    mov gs, cx
    mov ecx, gs
    out dx, eax
    out 0x80, al
    in eax, dx
    ret
    jmp 0x1000
    call 0x2000
end:
.data
var: .quad 0, end, end-start, var+8
     .long end-start, . - var
     .byte 1, 'a', -1, 255
     .short K, end-start
     .ascii "a\n\0\x41\101" , "b"
     .asciz "c"
     .balign 8
     .p2align 4
     .fill 3, 2, 0x1234
     .fill 2, 8, -1
     .octa 0x1234
     .skip 5, 7
     .zero 3
     .space 2
     .equ LEN, . - var
     .byte LEN
     .quad LATE
     .equ LATE, 77
.section .rodata
table: .quad start, end, var, bssv
.bss
     .skip 3
     .balign 64
bssv: .skip 128
.text
    nop
    mov rax, 0xffffffff
    mov eax, -1
    shl rax
    shl rax, 1
    test rax, rbx
    test rbx, [rax]
    test [rax], rbx
    xchg rax, rbx
    xchg [rax], rbx
    xchg rbx, [rax]
    imul rax, 5
    imul rax, rbx, 5
    push fs
    pop gs
    mov ds, ax
    mov ds, eax
    mov ss, eax
    mov ax, ds
    mov eax, ds
    mov ds, [rax]
    ltr ax
    str ax
    str eax
    sldt ax
    lldt ax
    in al, dx
    out dx, al
    out 0xf4, al
    in eax, 0x10
    int 0x80
    lock cmpxchg [rbx], rcx
    lock cmpxchg16b [rbx]
    lock cmpxchg16b xmmword ptr [rbx]
    rep stosq
    rep movsb
    repe cmpsb
    pushfq
    pushf
    popfq
    popf
    sidt [rax]
    invlpg [rax]
    invpcid rax, [rbx]
    fxsave64 [rax]
    fxsave [rax]
    xsave [rax]
    xsave64 [rax]
    ud2
    ret 8
    iretq
    iretd
    jmp [rax]
    jmp qword ptr [rax]
    call rax
    call qword ptr gs:[8]
    mov rax, [rax*2]
    mov rax, [rsp]
    mov rax, [r13]
    mov rax, [r12+rbp*4-8]
    mov rax, [rax+rsp]
    mov rax, fs:[0]
    mov rax, fs:[rbx]
    mov al, [0x1234]
    mov rax, cr8
    mov cr3, rax
    mov dr7, rax
    bts qword ptr [rax], 5
    lock bts dword ptr [rax], eax
    bsf rax, rbx
    tzcnt rax, rbx
    popcnt rax, rbx
    movzx eax, byte ptr [rbx]
    movzx eax, al
    movsxd rax, ecx
    movsx rax, word ptr [rbx]
    cdqe
    cqo
    cwde
    cbw
    leave
    enter 16, 0
    hlt
    pause
    mfence
    sfence
    lfence
    clflush [rax]
    clflushopt [rax]
    clwb [rax]
    prefetcht0 [rax]
    rdfsbase rax
    wrgsbase rax
    rdtscp
    rdtsc
    rdpmc
    cpuid
    xgetbv
    xsetbv
    monitor
    mwait
    vmcall
    clts
    wbinvd
    invd
    stac
    clac
    swapgs
    syscall
    sysretq
    rdrand rax
    rdseed rax
    movnti [rax], rbx
    movaps xmm0, [rax]
    movdqu xmm0, [rax]
    fninit
    fnsave [rax]
    ldmxcsr [rax]
    stmxcsr [rax]
    lsl eax, ebx
    verr ax
    verw ax
    verw word ptr [rax]
    smsw rax
    lmsw ax
    bswap rax
    cmovz rax, rbx
    setz al
    int3
    int1
    xlatb
    lodsq
    scasb
    cmpsb
    stosb
    insb
    outsb
    insb
    rep outsb
    lahf
    sahf
    cld
    std
    cli
    sti
    cmc
    stc
    xadd [rax], rbx
    lock xadd [rax], ebx
    lock inc qword ptr [rax]
    lock add qword ptr [rax], 1
    not qword ptr [rax]
    mul rbx
    div qword ptr [rbx]
    shld rax, rbx, 4
    shld rax, rbx, cl
    shl qword ptr [rax], cl
    rcr eax, 3
    movq xmm0, rax
    movq rax, xmm0
    adcx rax, rbx
    push 5
    push 0x80
    push 0x12345678
    push qword ptr [rax]
    pop qword ptr [rax]
    push rax
    pop r15
    push ax
    test al, 1
    test eax, 1
    test byte ptr [rax], 1
    cmp qword ptr [rax], -1
    cmp rax, 0x80
    add rax, 0x7fffffff
    sub rsp, 128
    add eax, 0xffffffff
    or eax, 0x80000000
    mov dword ptr [rax], 0xffffffff
    mov qword ptr [rax], -1
    mov ax, 0xffff
    mov al, 0xff
    add al, 0xff
    add ax, 0xffff
    add bx, 0xfff0
    lgs eax, [rax]
    mov rax, [eax]
    lea eax, [rax+rbx*4+1]
    cmpxchg8b [rax]
    lock cmpxchg8b qword ptr [rax]
    rsm
    rdmsr
    wrmsr
    jmp 0x100000
