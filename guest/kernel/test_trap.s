# Self-test: exceptions, double fault, interrupt stacks.

.equ NOWHERE_5,   0xffffa00000000005    # no PML4 entry
.equ NOT_CANONICAL, 0x0000800000000000
.equ NO_SELECTOR, 0x48                  # beyond the GDT's limit

.text
# u64 expect_fault(function, u64 vector, u64 error code, u64 rip, u64 cr2; rip or cr2 = 0: any)
# try_call the function and compare what it was ended by.
expect_fault:
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov r12, rsi
    mov r13, rdx
    mov r14, rcx
    mov r15, r8
    xor esi, esi
    call try_call
    xor ebx, ebx
    cmp rax, r12
    jne .Lexpect_end
    cmp r13, [rip+fault_err]
    jne .Lexpect_end
    test r14, r14
    jz .Lexpect_cr2
    cmp r14, [rip+fault_rip]
    jne .Lexpect_end
.Lexpect_cr2:
    test r15, r15
    jz .Lexpect_ok
    cmp r15, [rip+fault_cr2]
    jne .Lexpect_end
.Lexpect_ok:
    mov ebx, TEST_PASS
.Lexpect_end:
    mov eax, ebx
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    ret

do_ud:
    ud2
test_ud:
    lea rdi, [rip+do_ud]
    mov esi, VEC_UD
    xor edx, edx
    mov rcx, rdi
    xor r8d, r8d
    jmp expect_fault

do_de:
    xor eax, eax
    xor edx, edx
    xor ecx, ecx
.Lde_here:
    div rcx
test_de:
    lea rdi, [rip+do_de]
    mov esi, VEC_DE
    xor edx, edx
    lea rcx, [rip+.Lde_here]
    xor r8d, r8d
    jmp expect_fault

do_bp:
    int3
.Lbp_next:
    ret
test_bp:
    lea rdi, [rip+do_bp]
    mov esi, VEC_BP
    xor edx, edx
    lea rcx, [rip+.Lbp_next]
    xor r8d, r8d
    jmp expect_fault

do_gp_selector:
    mov eax, NO_SELECTOR
.Lgp_here:
    mov ds, eax
    ret
test_gp_selector:
    lea rdi, [rip+do_gp_selector]
    mov esi, VEC_GP
    mov edx, NO_SELECTOR
    lea rcx, [rip+.Lgp_here]
    xor r8d, r8d
    jmp expect_fault

do_gp_address:
    movabs rax, NOT_CANONICAL
.Lgp_address_here:
    mov rax, [rax]
    ret
test_gp_address:
    lea rdi, [rip+do_gp_address]
    mov esi, VEC_GP
    xor edx, edx
    lea rcx, [rip+.Lgp_address_here]
    xor r8d, r8d
    jmp expect_fault

do_pf_read:
    movabs rax, NOWHERE_5
.Lpf_read_here:
    mov al, [rax]
    ret
test_pf_read:
    lea rdi, [rip+do_pf_read]
    mov esi, VEC_PF
    xor edx, edx
    lea rcx, [rip+.Lpf_read_here]
    movabs r8, NOWHERE_5
    jmp expect_fault

do_pf_write:
    movabs rax, NOWHERE_5
.Lpf_write_here:
    mov [rax], al
    ret
test_pf_write:
    lea rdi, [rip+do_pf_write]
    mov esi, VEC_PF
    mov edx, PTE_W
    lea rcx, [rip+.Lpf_write_here]
    movabs r8, NOWHERE_5
    jmp expect_fault

do_pf_readonly:
    lea rcx, [rip+.Lreadonly_word]
    mov rax, [rcx]
.Lpf_readonly_here:
    mov [rcx], rax
    ret
test_pf_readonly:
    lea rdi, [rip+do_pf_readonly]
    mov esi, VEC_PF
    mov edx, 3                          # W P
    lea rcx, [rip+.Lpf_readonly_here]
    lea r8, [rip+.Lreadonly_word]
    jmp expect_fault

do_pf_exec:
    movabs rax, NOWHERE_5
    jmp rax
test_pf_exec:
    lea rdi, [rip+do_pf_exec]
    mov esi, VEC_PF
    mov edx, 0x10                       # I
    movabs rcx, NOWHERE_5
    mov r8, rcx
    jmp expect_fault

do_pf_exec_nx:
    lea rax, [rip+.Ldata_ret]
    jmp rax
test_pf_exec_nx:
    lea rdi, [rip+do_pf_exec_nx]
    mov esi, VEC_PF
    mov edx, 0x11                       # I P
    lea rcx, [rip+.Ldata_ret]
    mov r8, rcx
    jmp expect_fault

# With pf_ist set, #PF comes on a stack of its own and its frame is moved to the thread's; an
# overflow of the thread's stack is then #PF and not #DF.
test_pf_ist:
    push rbx
    push qword ptr [rip+pf_ist]
    mov edi, IST_PF
    call set_pf_ist
    call test_pf_read
    mov ebx, eax
    pop rdi
    call set_pf_ist
    CURRENT
    mov rcx, [rip+fault_frame]
    sub rcx, [rax+T_STACK]
    cmp rcx, STACK_BYTES                # on the thread's stack
    jae .Lpf_ist_fail
    mov edi, VEC_PF
    mov esi, IST_PF
    call overflow_stack
    and eax, ebx
    pop rbx
    ret
.Lpf_ist_fail:
    mov eax, TEST_FAIL
    pop rbx
    ret

# Push until the stack ends. Interrupts off, so that nothing else runs at its very end.
do_overflow:
    cli
.Loverflow_push:
    push rax
    jmp .Loverflow_push

# u64 overflow_stack(u64 vector, u32 ist)
# Overflow this thread's stack with that IST index in the #PF gate: TEST_PASS if that vector came,
# with CR2 in the guard below the stack.
overflow_stack:
    push rbx
    push qword ptr [rip+pf_ist]
    mov rbx, rdi
    mov edi, esi
    call set_pf_ist
    lea rdi, [rip+do_overflow]
    call try_call
    sti
    pop rdi
    push rax
    call set_pf_ist
    pop rax
    cmp rax, rbx
    jne .Loverflow_fail
    CURRENT
    mov rcx, [rax+T_STACK]
    sub rcx, [rip+fault_cr2]
    dec rcx
    cmp rcx, GUARD_BYTES
    jae .Loverflow_fail
    mov eax, TEST_PASS
    pop rbx
    ret
.Loverflow_fail:
    mov eax, TEST_FAIL
    pop rbx
    ret

# u64 on_ist(u64 frame, u64 ist)
# TEST_PASS if a trap frame is where CPU 0's IST stack begins.
on_ist:
    imul rsi, rsi, IST_BYTES
    lea rax, [rip+first_stacks]
    add rax, rsi
    sub rax, TF_BYTES
    cmp rax, rdi
    sete al
    movzx eax, al
    ret

test_df:
    mov edi, VEC_DF
    xor esi, esi
    call overflow_stack
    test eax, eax
    jz .Ldf_end
    mov rdi, [rip+fault_frame]
    mov esi, IST_DF
    call on_ist
.Ldf_end:
    ret

test_ist_rewind:
    push rbx
    push r12
    mov edi, VEC_DF
    xor esi, esi
    call overflow_stack
    mov ebx, eax
    mov r12, [rip+fault_frame]
    mov edi, VEC_DF
    xor esi, esi
    call overflow_stack
    and ebx, eax
    cmp r12, [rip+fault_frame]
    jne .Lrewind_fail
    call nmi_once
    mov rdi, [rip+nmi_frame]
    mov esi, IST_NMI
    call on_ist
    and ebx, eax
    call nmi_once
    mov rdi, [rip+nmi_frame]
    mov esi, IST_NMI
    call on_ist
    and eax, ebx
    jmp .Lrewind_end
.Lrewind_fail:
    mov eax, TEST_FAIL
.Lrewind_end:
    pop r12
    pop rbx
    ret

.section .rodata
.p2align 3
.Lreadonly_word:
    .quad 0x1122334455667788
.data
.p2align 3
.Ldata_ret:
    .byte 0xc3                          # ret, in a page that is not executable
