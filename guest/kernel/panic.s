# Panic: say what happened, show the registers, end the run with EXIT_PANIC.
#
# The registers are those of the trap frame, by name, lowest address first (defs.s, TF_*).

.text
# void panic_text(const char *text)
panic_text:
    mov rsi, rdi
    xor edi, edi

# void panic(struct trap_frame *frame or 0, const char *text)
# Print and end the run. Takes the console from whoever holds it. Never returns.
panic:
    cli
    mov r12, rdi
    mov r13, rsi
    mov qword ptr [rip+console_lock], 0
    lea rdi, [rip+.Ltext_panic]
    call print
    mov rdi, r13
    call print
    lea rdi, [rip+.Ltext_cpu]
    call print
    THIS_CPU
    mov rbx, rax
    mov rdi, [rbx+CPU_ID]
    call print_dec
    lea rdi, [rip+.Ltext_thread]
    call print
    mov rdi, [rbx+CPU_THREAD]
    mov rdi, [rdi+T_ID]
    call print_dec
    lea rdi, [rip+.Ltext_newline]
    call print
    test r12, r12
    jz .Lpanic_end
    lea rbx, [rip+panic_names]
    xor r13d, r13d
.Lpanic_reg:
    mov rdi, rbx
    call print
    mov rdi, [r12+r13*8]
    call print_hex
    lea rdi, [rip+.Ltext_newline]
    call print
    add rbx, 8
    inc r13d
    cmp r13d, 23                        # TF_BYTES / 8
    jb .Lpanic_reg
.Lpanic_end:
    mov edi, EXIT_PANIC
    call shut_down

.section .rodata
.Ltext_panic:
    .asciz "PANIC "
.Ltext_cpu:
    .asciz "\ncpu "
.Ltext_thread:
    .asciz " thread "
.Ltext_newline:
    .asciz "\n"
panic_names:                            # 8 bytes each, in the order of the trap frame
    .asciz "cr2    "
    .asciz "r15    "
    .asciz "r14    "
    .asciz "r13    "
    .asciz "r12    "
    .asciz "r11    "
    .asciz "r10    "
    .asciz "r9     "
    .asciz "r8     "
    .asciz "rbp    "
    .asciz "rdi    "
    .asciz "rsi    "
    .asciz "rdx    "
    .asciz "rcx    "
    .asciz "rbx    "
    .asciz "rax    "
    .asciz "vector "
    .asciz "error  "
    .asciz "rip    "
    .asciz "cs     "
    .asciz "rflags "
    .asciz "rsp    "
    .asciz "ss     "
