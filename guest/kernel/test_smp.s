# Self-test: interrupts between CPUs, cross-CPU calls, NMI to another CPU, TLB shootdown.

.text
# rbx = struct cpu of CPU r12. Changes rax.
cpu_of_r12:
    lea rax, [rip+cpus]
    mov rbx, r12
    shl rbx, CPU_SHIFT
    add rbx, rax
    ret

# u64 for_each_cpu(u64 (*test)(void), u64 first)
# test with r12 = CPU index, rbx = its struct, from first up to the last; TEST_PASS if all passed.
for_each_cpu:
    push rbx
    push r12
    push r13
    push r14
    mov r13, rdi
    mov r12, rsi
    mov r14d, TEST_PASS
.Leach_next:
    cmp r12, [rip+cpu_count]
    jae .Leach_end
    call cpu_of_r12
    call r13
    and r14d, eax
    inc r12
    jmp .Leach_next
.Leach_end:
    mov eax, r14d
    pop r14
    pop r13
    pop r12
    pop rbx
    ret

# u64 for_other_cpus(u64 (*test)(void))
# The same without CPU 0, where the tests run; TEST_SKIP if there is no other.
for_other_cpus:
    mov esi, 1
    cmp [rip+cpu_count], rsi
    ja for_each_cpu
    mov eax, TEST_SKIP
    ret

# A fixed IPI arrives at each CPU, this one included.
test_ipi:
    lea rdi, [rip+ipi_one]
    xor esi, esi
    jmp for_each_cpu
ipi_one:
    mov rdx, [rbx+CPU_RESCHEDS]
    mov edi, r12d
    mov esi, RESCHED_ICR
    call send_ipi
    lea rdi, [rbx+CPU_RESCHEDS]
    mov rsi, rdx
    jmp wait_above

# A function runs on the CPU it was sent to, with its argument, once.
test_cross_call:
    lea rdi, [rip+call_one]
    xor esi, esi
    jmp for_each_cpu
call_one:
    mov qword ptr [rip+called_cpu], -1
    mov edi, r12d
    lea rsi, [rip+note_call]
    lea rdx, [r12+100]
    call cross_call
    cmp r12, [rip+called_cpu]
    jne .Lcall_one_fail
    lea rdx, [r12+100]
    cmp rdx, [rip+called_arg]
    jne .Lcall_one_fail
    mov eax, TEST_PASS
    ret
.Lcall_one_fail:
    mov eax, TEST_FAIL
    ret
note_call:
    THIS_CPU
    mov rax, [rax+CPU_ID]
    mov [rip+called_cpu], rax
    mov [rip+called_arg], rdi
    ret

# An NMI reaches each other CPU.
test_nmi_other:
    lea rdi, [rip+nmi_one]
    jmp for_other_cpus
nmi_one:
    mov rdx, [rbx+CPU_NMIS]
    mov edi, r12d
    mov esi, ICR_NMI
    call send_ipi
    lea rdi, [rbx+CPU_NMIS]
    mov rsi, rdx
    jmp wait_above

# Each other CPU reads TEST_PAGE (and so may cache its translation), the page gets another frame,
# a shootdown follows; the CPU must then read the other frame. By page, then by "everything".
test_shootdown:
    push rbx
    push r12
    push r13
    call frame_alloc
    mov rbx, rax
    call frame_alloc
    mov r13, rax
    movabs rcx, DIRECT_BASE
    mov qword ptr [rcx+rbx], 1
    mov qword ptr [rcx+r13], 2
    mov [rip+frame_one], rbx
    mov [rip+frame_two], r13
    lea rdi, [rip+shootdown_one]
    call for_other_cpus
    push rax
    xor edi, edi
    call test_map
    movabs rdi, TEST_PAGE
    mov esi, 1
    call tlb_shootdown
    mov rdi, rbx
    call frame_free
    mov rdi, r13
    call frame_free
    pop rax
    pop r13
    pop r12
    pop rbx
    ret
shootdown_one:
    mov rdi, [rip+frame_one]
    mov esi, 1
    call remap_and_read
    cmp rax, 1
    jne .Lshootdown_one_fail
    mov rdi, [rip+frame_two]
    mov esi, 1
    call remap_and_read
    cmp rax, 2
    jne .Lshootdown_one_fail
    mov rdi, [rip+frame_one]
    xor esi, esi
    call remap_and_read
    cmp rax, 1
    jne .Lshootdown_one_fail
    ret                                 # TEST_PASS is 1
.Lshootdown_one_fail:
    mov eax, TEST_FAIL
    ret
# u64 remap_and_read(u64 frame, u64 pages as for tlb_shootdown)
# What CPU r12 reads at TEST_PAGE after it was given that frame.
remap_and_read:
    movabs rcx, PTE_KDATA
    or rdi, rcx
    movabs rax, TEST_PTE
    mov [rax], rdi
    movabs rdi, TEST_PAGE
    call tlb_shootdown
    mov edi, r12d
    lea rsi, [rip+read_test_page]
    xor edx, edx
    call cross_call
    mov rax, [rip+read_value]
    ret
read_test_page:
    movabs rax, TEST_PAGE
    mov rax, [rax]
    mov [rip+read_value], rax
    ret

.equ STORM_SHOOTDOWNS, 200              # of all CPUs together

# Every CPU asks for shootdowns at the same time, interrupts off: each must answer while it waits.
test_shootdown_storm:
    lea rdi, [rip+storm_thread]
    jmp run_on_all
storm_thread:
    push rbx
    mov eax, STORM_SHOOTDOWNS
    xor edx, edx
    div dword ptr [rip+cpu_count]
    mov ebx, eax
.Lstorm_next:
    cli
    movabs rdi, TEST_PAGE
    mov esi, 3
    call tlb_shootdown
    sti
    dec ebx
    jnz .Lstorm_next
    xor eax, eax
    pop rbx
    ret

# u64 run_on_all(u64 (*thread)(u64 cpu))
# It runs on every CPU at once, on CPU 0 in this thread, on the others in one each; TEST_PASS if all return 0.
run_on_all:
    push rbx
    push r12
    push r13
    mov r12, rdi
    mov ebx, 1
.Lrun_start:
    cmp rbx, [rip+cpu_count]
    jae .Lrun_here
    mov rdi, r12
    mov rsi, rbx
    mov rdx, rbx
    xor ecx, ecx
    call thread_create
    lea rcx, [rip+run_threads]
    mov [rcx+rbx*8], rax
    inc ebx
    jmp .Lrun_start
.Lrun_here:
    xor edi, edi
    call r12
    mov r13, rax
    mov ebx, 1
.Lrun_join:
    cmp rbx, [rip+cpu_count]
    jae .Lrun_end
    lea rcx, [rip+run_threads]
    mov rdi, [rcx+rbx*8]
    call thread_join
    or r13, rax
    inc ebx
    jmp .Lrun_join
.Lrun_end:
    xor eax, eax
    test r13, r13
    sete al
    pop r13
    pop r12
    pop rbx
    ret

.data
.p2align 3
called_cpu:
    .quad 0
called_arg:
    .quad 0
frame_one:
    .quad 0
frame_two:
    .quad 0
read_value:
    .quad 0
.bss
.p2align 3
run_threads:                            # MAX_CPUS * 8
    .zero 512
