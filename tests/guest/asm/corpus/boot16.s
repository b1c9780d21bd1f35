# Instruction forms that kernels use, one a line: compared byte for byte with GNU as.
start:
    cli
    mov ax, cs
    mov ds, ax
    mov eax, cr0
    or al, 1
    or eax, 1
    mov cr0, eax
    lgdt [0x1234]
    lidt [0x1234]
    mov eax, 0x12345678
    mov ebx, [0x1234]
    mov eax, [0x1234]
    mov ax, [0x1234]
    mov [0x1234], ax
    mov [0x1234], eax
    xor ax, ax
    mov sp, 0x7c00
    int 0x10
    push ax
    push eax
    mov bx, [bx+si]
    mov bx, [bp+2]
    mov bx, [di]
    mov eax, [eax+4]
    mov ax, offset 0x1234
    lea eax, [ebx+4]
    wrmsr
    ret
    retf
    iret
    pushf
    mov ss, ax
    rep movsb
    rep stosd
    in al, 0x92
    hlt
    mov ax, offset end-start
    mov si, offset end
    mov ax, [end]
    lgdt [end-start+0x600]
    jmp start
    jz end
    call end
    mov ebx, offset end
    jcxz end
    lock inc word ptr [end]
    rep stosd
    .byte 0x66, 0xea
    .long start
    .word 8
end: .word start, end-start
    .skip 400-(.-start)
    .word 0xaa55
