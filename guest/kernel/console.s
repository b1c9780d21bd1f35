# The console: a 16550 at COM1, transmit only, polled.
#
# National PC16550D data sheet: LSR bit 5 (THRE). No interrupts, no FIFO use.
# Each print_* call is atomic on its own; a line that must not be torn is printed by one thread.

.equ COM1_IER,      0x3f9
.equ COM1_FCR,      0x3fa
.equ COM1_LCR,      0x3fb
.equ COM1_MCR,      0x3fc
.equ COM1_LSR,      0x3fd
.equ LSR_THRE,      0x20

.text
# void console_init(void)
# 115200 8N1, interrupts off.
console_init:
    mov edx, COM1_IER
    xor eax, eax
    out dx, al
    mov edx, COM1_LCR
    mov al, 0x80                        # divisor latch
    out dx, al
    mov edx, COM1
    mov al, 1
    out dx, al
    mov edx, COM1_IER
    xor eax, eax
    out dx, al
    mov edx, COM1_LCR
    mov al, 3
    out dx, al
    mov edx, COM1_FCR
    xor eax, eax
    out dx, al
    mov edx, COM1_MCR
    mov al, 3
    out dx, al
    ret

# void putc(char c in dil)
# Keeps everything but rax and rdx.
putc:
    mov edx, COM1_LSR
.Lputc_wait:
    in al, dx
    test al, LSR_THRE
    jz .Lputc_wait
    mov edx, COM1
    mov eax, edi
    out dx, al
    ret

# void print(const char *text)
print:
    push rbx
    push r12
    mov rbx, rdi
    lea rdi, [rip+console_lock]
    call spin_lock_irq
    mov r12, rax
    call print_unlocked
    lea rdi, [rip+console_lock]
    mov rsi, r12
    call spin_unlock_irq
    pop r12
    pop rbx
    ret

# Print the text at rbx. Clobbers rbx rax rdx rdi.
print_unlocked:
    movzx edi, byte ptr [rbx]
    test edi, edi
    jz .Lprint_end
    call putc
    inc rbx
    jmp print_unlocked
.Lprint_end:
    ret

# void print_hex(u64 value)
# 0x and 16 digits.
print_hex:
    push rbx
    sub rsp, 32
    mov rax, rdi
    lea rbx, [rsp+18]
    mov byte ptr [rbx], 0
    mov ecx, 16
.Lhex_digit:
    mov edx, eax
    and edx, 15
    cmp edx, 10
    jb .Lhex_decimal
    add edx, 39                         # 'a' - '0' - 10
.Lhex_decimal:
    add edx, 48
    dec rbx
    mov [rbx], dl
    shr rax, 4
    dec ecx
    jnz .Lhex_digit
    dec rbx
    mov byte ptr [rbx], 120             # 'x'
    dec rbx
    mov byte ptr [rbx], 48
    mov rdi, rbx
    call print
    add rsp, 32
    pop rbx
    ret

# void print_dec(u64 value)
print_dec:
    push rbx
    sub rsp, 32
    mov rax, rdi
    lea rbx, [rsp+31]
    mov byte ptr [rbx], 0
    mov ecx, 10
.Ldec_digit:
    xor edx, edx
    div rcx
    add edx, 48
    dec rbx
    mov [rbx], dl
    test rax, rax
    jnz .Ldec_digit
    mov rdi, rbx
    call print
    add rsp, 32
    pop rbx
    ret

# void shut_down(u32 code)
# End the run: QEMU's isa-debug-exit and our machine stop here. Never returns.
shut_down:
    cli
    mov eax, edi
    out PORT_EXIT, eax
.Lshut_down_hang:
    hlt
    jmp .Lshut_down_hang

.data
.p2align 3
console_lock:
    .quad 0
