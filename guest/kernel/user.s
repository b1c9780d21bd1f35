# Ring-3 programs of the self-test.
#
# All lie in one page of .text, which is mapped as it is into each process that starts here, at
# USER_CODE; so a program is position independent and calls nothing outside. rdi = its argument.
# Exit code 0 = well.

.text
.p2align 12, 0x90
user_page:

# echo() returns its argument and keeps every register but rcx and r11.
user_echo:
    mov ebx, 0x1111
    mov ebp, 0x2222
    mov r8d, 0x3333
    mov r9d, 0x4444
    mov r10d, 0x5555
    mov r12d, 0x6666
    mov r13d, 0x7777
    mov r14d, 0x8888
    mov r15d, 0x9999
    mov esi, 0xaaaa
    mov edx, 0xbbbb
    movabs rdi, 0x123456789abcdef0
    mov eax, SYS_ECHO
    syscall
    cmp rax, rdi
    jne .Luser_bad
    movabs rcx, 0x123456789abcdef0
    cmp rdi, rcx
    jne .Luser_bad
    cmp rbx, 0x1111
    jne .Luser_bad
    cmp rbp, 0x2222
    jne .Luser_bad
    cmp r8, 0x3333
    jne .Luser_bad
    cmp r9, 0x4444
    jne .Luser_bad
    cmp r10, 0x5555
    jne .Luser_bad
    cmp r12, 0x6666
    jne .Luser_bad
    cmp r13, 0x7777
    jne .Luser_bad
    cmp r14, 0x8888
    jne .Luser_bad
    cmp r15, 0x9999
    jne .Luser_bad
    cmp rsi, 0xaaaa
    jne .Luser_bad
    cmp rdx, 0xbbbb
    jne .Luser_bad
.Luser_well:
    xor edi, edi
    mov eax, SYS_EXIT
    syscall
.Luser_bad:
    mov edi, 1
    mov eax, SYS_EXIT
    syscall

# SYSCALL keeps the flags (CF here), and the stack is the user's again afterwards.
user_flags:
    mov rbx, rsp
    push rbx
    stc
    mov eax, SYS_YIELD
    syscall
    jnc .Luser_bad
    pop rcx
    cmp rcx, rbx
    jne .Luser_bad
    cmp rsp, rbx
    jne .Luser_bad
    jmp .Luser_well

# A number that nobody has.
user_bad_call:
    mov eax, 9999
    syscall
    cmp rax, -ENOSYS
    jne .Luser_bad
    mov eax, 63
    syscall
    cmp rax, -ENOSYS
    jne .Luser_bad
    jmp .Luser_well

# rdi = number of CPUs: go to each and ask where it is.
user_migrate:
    mov rbx, rdi
    xor r12d, r12d
.Luser_cpu:
    mov rdi, r12
    mov eax, SYS_SETCPU
    syscall
    test rax, rax
    jnz .Luser_bad
    mov eax, SYS_GETCPU
    syscall
    cmp rax, r12
    jne .Luser_bad
    inc r12
    cmp r12, rbx
    jb .Luser_cpu
    jmp .Luser_well

# Spin without a system call until the data page says stop.
user_spin:
    mov edi, USER_DATA
    mov qword ptr [rdi+8], 1            # started
    mov ecx, 1000000000
.Luser_spin:
    cmp qword ptr [rdi], 0
    jne .Luser_well
    pause
    dec ecx
    jnz .Luser_spin
    jmp .Luser_bad

# rdi = address: read, write or jump there.
user_read:
    mov rax, [rdi]
    jmp .Luser_bad
user_write:
    mov [rdi], rax
    jmp .Luser_bad
user_exec:
    jmp rdi

user_hlt:
    hlt
    jmp .Luser_bad
user_ud:
    ud2
    jmp .Luser_bad
user_bp:
    int3
    jmp .Luser_bad
user_int:                               # a gate that is the kernel's own
    int 0x20
    jmp .Luser_bad

.p2align 12, 0x90
user_page_end:
