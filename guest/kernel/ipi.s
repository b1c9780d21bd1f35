# By the local APIC: interrupts between CPUs, TLB shootdown, cross-CPU calls, timer.
#
# SDM 10.5.4 (timer), 10.6.1 (ICR), 10.8.5 (EOI), 4.10.5 (shootdown).
# Register page at APIC_BASE, xAPIC mode, uncached.

.globl mailboxes
.globl shootdown_vector
.equ shootdown_vector, VEC_SHOOTDOWN

.text
# void timer_start(u32 bus clocks a tick; 0 stops it)
timer_start:
    movabs rax, APIC_BASE
    mov dword ptr [rax+APIC_TIMER_DIV], TIMER_DIV_1
    mov dword ptr [rax+APIC_LVT_TIMER], TIMER_PERIODIC
    test edi, edi
    jnz .Ltimer_count
    mov dword ptr [rax+APIC_LVT_TIMER], TIMER_MASKED
.Ltimer_count:
    mov [rax+APIC_TIMER_INIT], edi
    ret

# void timer_interrupt(frame)
# A tick ends the current thread's turn.
timer_interrupt:
    THIS_CPU
    inc qword ptr [rax+CPU_TICKS]
    mov qword ptr [rax+CPU_RESCHED], 1
    mov rax, [rax+CPU_THREAD]
    inc qword ptr [rax+T_TICKED]
    mov eax, HYPER_TICK
    call hypercall
# Signal the end of the interrupt.
eoi:
    movabs rax, APIC_BASE
    mov dword ptr [rax+APIC_EOI], 0
    ret

# void resched_interrupt(frame)
# Another CPU has put a thread on this one's queue.
resched_interrupt:
    THIS_CPU
    inc qword ptr [rax+CPU_RESCHEDS]
    mov qword ptr [rax+CPU_RESCHED], 1
    jmp eoi

# void spurious_interrupt(frame)
# No EOI (SDM 10.9).
spurious_interrupt:
    THIS_CPU
    inc qword ptr [rax+CPU_SPURIOUS]
    ret

# void send_ipi(u32 cpu, u32 icr low half)
# Any context. Changes rax and rdi.
send_ipi:
    pushfq
    cli                                 # nobody else may use the ICR between its halves
    movabs rax, APIC_BASE
.Lipi_wait:
    test dword ptr [rax+APIC_ICR_LO], ICR_PENDING
    jz .Lipi_send
    pause
    jmp .Lipi_wait
.Lipi_send:
    shl edi, 24
    mov [rax+APIC_ICR_HI], edi
    mov [rax+APIC_ICR_LO], esi
    popfq
    ret

# void apic_broadcast(u32 icr low half with a shorthand)
apic_broadcast:
    mov esi, edi
    xor edi, edi
    jmp send_ipi

# void shootdown_interrupt(frame)
shootdown_interrupt:
    THIS_CPU
    inc qword ptr [rax+CPU_SHOOTDOWNS]
    call shootdown_answer
    jmp eoi

# void shootdown_answer(void)
# Answer this CPU's mailbox. Interrupts must be off: an answer interrupted by another one would
# store an older sequence over a newer. The sequence is read before, and stored after, the
# invalidation. Keeps all but rax rcx rdx r8 r9 r10.
shootdown_answer:
    THIS_CPU
    mov rdx, [rax+CPU_ID]
    shl rdx, MAILBOX_SHIFT
    lea rax, [rip+mailboxes]
    add rdx, rax
    mov r8, [rdx+MB_SEQ]
    cmp r8, [rdx+MB_ACK]
    je .Lanswer_end
    mov r9, [rdx+MB_START]
    mov r10, [rdx+MB_PAGES]
    test r10, r10
    jz .Lanswer_all
.Lanswer_page:
    invlpg [r9]
    add r9, PAGE_SIZE
    dec r10
    jnz .Lanswer_page
    call pcid_invalidate_others
    jmp .Lanswer_ack
.Lanswer_all:
    call tlb_flush_all
.Lanswer_ack:
    mov [rdx+MB_ACK], r8
.Lanswer_end:
    ret

# void tlb_flush_all(void)
# This CPU, global entries too (SDM 4.10.4.1). Changes rax and rcx.
tlb_flush_all:
    mov rax, cr4
    mov rcx, rax
    and rax, -129                       # ~CR4_PGE
    mov cr4, rax
    mov cr4, rcx
    ret

# void answer_others(void)
# While spinning for another CPU: answer what it may be waiting for, interrupts on or off.
answer_others:
    pushfq
    cli
    call shootdown_answer
    call call_answer
    popfq
    pause
    ret

# void tlb_shootdown(u64 start, u64 pages; 0 pages = everything)
# Invalidate on every CPU; on return none holds such a translation. No spinlock held. Two CPUs may
# do this at once even with interrupts off: each answers the other while it waits.
tlb_shootdown:
    push rbx
    push r12
    push r13
    push r14
    mov r12, rdi
    mov r13, rsi
    call preempt_disable
.Lshoot_lock:
    mov eax, 1
    xchg [rip+shootdown_lock], rax
    test rax, rax
    jz .Lshoot_locked
    call answer_others
    jmp .Lshoot_lock
.Lshoot_locked:
    test r13, r13
    jnz .Lshoot_local
    call tlb_flush_all
    jmp .Lshoot_others
.Lshoot_local:
    mov rax, r12
    mov rcx, r13
.Lshoot_local_page:
    invlpg [rax]
    add rax, PAGE_SIZE
    dec rcx
    jnz .Lshoot_local_page
    call pcid_invalidate_others
.Lshoot_others:
    xor ebx, ebx
.Lshoot_send:
    call .Lshoot_target
    jz .Lshoot_sent
    mov [rdx+MB_START], r12
    mov [rdx+MB_PAGES], r13
    inc qword ptr [rdx+MB_SEQ]
    mov edi, ebx
    mov esi, SHOOTDOWN_ICR
    call send_ipi
.Lshoot_sent:
    inc ebx
    cmp rbx, [rip+cpu_count]
    jb .Lshoot_send
    xor ebx, ebx
.Lshoot_wait:
    call .Lshoot_target
    jz .Lshoot_waited
    mov rax, [rdx+MB_SEQ]
    cmp rax, [rdx+MB_ACK]
    je .Lshoot_waited
    call answer_others
    jmp .Lshoot_wait
.Lshoot_waited:
    inc ebx
    cmp rbx, [rip+cpu_count]
    jb .Lshoot_wait
    mov qword ptr [rip+shootdown_lock], 0
    call preempt_enable
    pop r14
    pop r13
    pop r12
    pop rbx
    ret
# ZF = 1 if CPU rbx is this one or not online; else rdx = its mailbox.
.Lshoot_target:
    THIS_CPU
    cmp rbx, [rax+CPU_ID]
    je .Lshoot_target_end
    lea rax, [rip+cpus]
    mov rdx, rbx
    shl rdx, CPU_SHIFT
    cmp qword ptr [rax+rdx+CPU_ONLINE], 0
    lea rdx, [rip+mailboxes]
    mov eax, ebx
    je .Lshoot_target_end
    shl rax, MAILBOX_SHIFT
    add rdx, rax                        # never 0, so ZF = 0
.Lshoot_target_end:
    ret

# void cross_call(u32 cpu, void (*function)(u64), u64 argument)
# Run it on that CPU, in its interrupt handler, and wait until it has returned. No spinlock held.
cross_call:
    push rbx
    push r12
    push r13
    mov r12, rsi
    mov r13, rdx
    mov ebx, edi
    shl rbx, CPU_SHIFT
    lea rax, [rip+cpus]
    add rbx, rax
    call preempt_disable
    THIS_CPU
    cmp rax, rbx
    je .Lcross_self
.Lcross_lock:
    mov eax, 1
    xchg [rbx+CPU_CALL_LOCK], rax
    test rax, rax
    jz .Lcross_locked
    call answer_others
    jmp .Lcross_lock
.Lcross_locked:
    mov [rbx+CPU_CALL_FN], r12
    mov [rbx+CPU_CALL_ARG], r13
    mov qword ptr [rbx+CPU_CALL_PENDING], 1
    mov edi, [rbx+CPU_ID]
    mov esi, CALL_ICR
    call send_ipi
.Lcross_wait:
    cmp qword ptr [rbx+CPU_CALL_PENDING], 0
    je .Lcross_done
    call answer_others
    jmp .Lcross_wait
.Lcross_done:
    mov qword ptr [rbx+CPU_CALL_LOCK], 0
    jmp .Lcross_end
.Lcross_self:
    mov rdi, r13
    call r12
.Lcross_end:
    call preempt_enable
    pop r13
    pop r12
    pop rbx
    ret

# void call_interrupt(frame)
call_interrupt:
    call call_answer
    jmp eoi

# void call_answer(void)
# Run the function that another CPU asked this one to run, if any. Interrupts off.
call_answer:
    push rbx
    THIS_CPU
    mov rbx, rax
    cmp qword ptr [rbx+CPU_CALL_PENDING], 0
    je .Lcall_none
    mov rdi, [rbx+CPU_CALL_ARG]
    call qword ptr [rbx+CPU_CALL_FN]
    mov qword ptr [rbx+CPU_CALL_PENDING], 0
.Lcall_none:
    pop rbx
    ret

.data
.p2align 3
shootdown_lock:
    .quad 0
.bss
.p2align 6
mailboxes:                              # MAX_CPUS * MAILBOX_BYTES
    .zero 4096
