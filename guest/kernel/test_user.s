# Self-test: ring 3, system calls, faults that kill the thread and nothing else.

.equ NOT_MAPPED, 0x700000

.text
# u64 run_user(void *program, u64 argument)
# Run it in a process of its own on CPU 0; its exit code. Fault details in user_fault_*.
run_user:
    push rbx
    mov rcx, rdi
    xor edi, edi
    xor edx, edx
    call thread_create
    mov rbx, rax
    mov rdi, rax
    call thread_join                    # the struct is free but nobody else creates threads
    mov rcx, [rbx+T_FAULT_ERR]
    mov [rip+user_fault_err], rcx
    mov rcx, [rbx+T_FAULT_CR2]
    mov [rip+user_fault_cr2], rcx
    pop rbx
    ret

# u64 user_well(void *program, u64 argument): TEST_PASS if its exit code is 0
user_well:
    call run_user
    test rax, rax
    sete al
    movzx eax, al
    ret

# u64 user_killed(void *program, u64 argument, u64 vector, u64 error code)
# TEST_PASS if that exception killed it.
user_killed:
    push rbx
    push r12
    lea rbx, [rdx+CODE_KILLED]
    mov r12, rcx
    call run_user
    cmp rax, rbx
    jne .Lkilled_fail
    cmp r12, [rip+user_fault_err]
    jne .Lkilled_fail
    mov eax, TEST_PASS
    jmp .Lkilled_end
.Lkilled_fail:
    mov eax, TEST_FAIL
.Lkilled_end:
    pop r12
    pop rbx
    ret

# The same for #PF, with CR2 = argument: user_pf(program, address, error code)
user_pf:
    push rbx
    mov rbx, rsi
    mov ecx, edx
    mov edx, VEC_PF
    call user_killed
    cmp rbx, [rip+user_fault_cr2]
    je .Luser_pf_end
    mov eax, TEST_FAIL
.Luser_pf_end:
    pop rbx
    ret

test_syscall_echo:
    lea rdi, [rip+user_echo]
    jmp user_well
test_syscall_flags:
    lea rdi, [rip+user_flags]
    jmp user_well
test_syscall_bad:
    lea rdi, [rip+user_bad_call]
    jmp user_well
test_user_migrate:
    lea rdi, [rip+user_migrate]
    mov rsi, [rip+cpu_count]
    jmp user_well

# A ring-3 loop without system calls is preempted; it is stopped through its data page.
test_preempt_user:
    push rbx
    push r12
    xor edi, edi
    xor esi, esi
    xor edx, edx
    lea rcx, [rip+user_spin]
    call thread_create
    mov rbx, rax
    mov r12, [rbx+T_DATA_FRAME]
    movabs rax, DIRECT_BASE
    add r12, rax
    lea rdi, [r12+8]
    xor esi, esi
    call wait_above
    mov qword ptr [r12], 1
    mov r12d, eax
    mov rdi, rbx
    call thread_join
    test rax, rax
    sete al
    movzx eax, al
    and eax, r12d
    pop r12
    pop rbx
    ret

test_user_read_kernel:
    lea rdi, [rip+user_read]
    lea rsi, [rip+text_start]
    mov edx, 5                          # U P
    jmp user_pf
test_user_write:
    lea rdi, [rip+user_write]
    mov esi, NOT_MAPPED
    mov edx, 6                          # U W
    jmp user_pf
test_user_write_code:
    lea rdi, [rip+user_write]
    mov esi, USER_CODE
    mov edx, 7                          # U W P
    jmp user_pf
test_user_exec:
    lea rdi, [rip+user_exec]
    mov esi, USER_DATA
    mov edx, 0x15                       # I U P
    jmp user_pf
test_user_hlt:
    lea rdi, [rip+user_hlt]
    mov edx, VEC_GP
    xor ecx, ecx
    jmp user_killed
test_user_ud:
    lea rdi, [rip+user_ud]
    mov edx, VEC_UD
    xor ecx, ecx
    jmp user_killed
test_user_bp:
    lea rdi, [rip+user_bp]
    mov edx, VEC_BP
    xor ecx, ecx
    jmp user_killed
# The error code is vector * 8 + IDT by the manual (0x102); QEMU 7.2 gives vector * 16 + IDT.
test_user_int:
    push rbx
    lea rdi, [rip+user_int]
    call run_user
    xor ebx, ebx
    cmp rax, CODE_KILLED+VEC_GP
    jne .Luser_int_end
    mov rax, [rip+user_fault_err]
    cmp rax, 0x102
    sete bl
    cmp rax, 0x202
    sete al
    or bl, al
.Luser_int_end:
    mov eax, ebx
    pop rbx
    ret

.data
.p2align 3
user_fault_err:
    .quad 0
user_fault_cr2:
    .quad 0
