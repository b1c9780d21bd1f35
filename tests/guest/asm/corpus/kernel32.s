# Instruction forms that kernels use, one a line: compared byte for byte with GNU as.
start:
    mov eax, [0x1234]
    mov al, [0x1234]
    mov ebx, [0x1234]
    mov [0x1234], eax
    mov [0x1234], ebx
    mov eax, gs:[8]
    lgdt [0x1234]
    cmp dword ptr [0x1234], 5
    mov eax, cr0
    mov cr0, eax
    mov ds, ax
    mov ds, eax
    out dx, al
    push 0x10
    pushfd
    popfd
    iretd
    retf
    rep stosd
    rdmsr
    bts eax, 8
    mov word ptr [0x472], 0x1234
    inc eax
    push cs
    push fs
    pusha
    popa
    jmp eax
    mov esp, 0x7c00
    mov eax, [ebx+esi*4]
    mov byte ptr [0xb8000], 0x41
    mov eax, offset start
    push offset start
    lea esp, [start+4]
    jmp start
    jc end
    call end
    mov edi, offset end - 0x1000
    mov [end], eax
    mov ebx, [end+ecx*4]
    mov eax, [end]
    mov dword ptr [end], offset start
    lgdt [end]
    jecxz end
    .byte 0xea
    .long start
    .word 8
end: .long start, end-start
