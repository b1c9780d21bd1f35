# Threads and the scheduler: a run queue per CPU, round robin, preempted by the tick.
#
# A thread belongs to one CPU's queue (T_CPU) and moves only when it asks to (set_cpu). It is put
# back on a queue only after its switch-out is complete: T_ON_CPU stays 1 until then, so a policy's
# switch_out runs while the thread can be picked nowhere. T_LOCK orders that against a wake-up.
# Lock order: wait queue, T_LOCK, run queue.

.text
# struct thread *thread_create(u64 (*entry)(u64), u64 arg, u64 cpu, void *user_entry)
# Create and make runnable. user_entry = 0: a kernel thread that calls entry(arg). Otherwise a
# process of its own that starts in ring 3 with rdi = arg; user_entry is an address in .text, and
# the program must lie within one page. Returns 0 if the policy had not even a page for the top of its
# stack. Thread context, or boot.
thread_create:
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov r12, rdi
    mov r13, rsi
    mov r14, rdx
    mov r15, rcx
    call thread_struct_alloc
    mov rbx, rax
    mov [rbx+T_ENTRY], r12
    mov [rbx+T_ARG], r13
    mov [rbx+T_CPU], r14
    mov [rbx+T_USER], r15
    mov qword ptr [rbx+T_CR3], KERNEL_PML4
    mov qword ptr [rbx+T_PREEMPT], 1    # until finish_switch has run
    lea rax, [rip+thread_begin]
    mov [rbx+T_RIP], rax
    test r15, r15
    jz .Lcreate_stack
    mov rdi, rbx
    call user_space_create
.Lcreate_stack:
    call slot_alloc
    mov [rbx+T_STACK], rax
    lea rcx, [rax+STACK_BYTES]
    mov [rbx+T_TOP], rcx
    mov [rbx+T_RSP], rcx
    mov rdi, rax
    cmp dword ptr [rip+policy_attached], 0
    jne .Lcreate_policy
    call stack_map
    jmp .Lcreate_queue
.Lcreate_policy:
    call preempt_disable
    mov rdi, [rbx+T_ID]
    mov rsi, [rbx+T_STACK]
    mov edx, STACK_BYTES
    mov rcx, r15                        # 0: it never leaves the kernel
    mov eax, HYPER_CREATE_THREAD
    call hypercall
    mov r12, rax                        # the entry is in the struct by now
    call preempt_enable
    test r12, r12
    jz .Lcreate_none
    mov rdi, [rbx+T_TOP]
    sub rdi, 8
    call kernel_pte
    test dword ptr [rax], PTE_P
    jz .Lcreate_none
.Lcreate_queue:
    pushfq
    cli
    mov rdi, rbx
    call enqueue
    popfq
    mov rax, rbx
.Lcreate_end:
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    ret
.Lcreate_none:
    call preempt_disable
    mov rdi, [rbx+T_ID]
    mov eax, HYPER_EXIT_THREAD
    call hypercall
    call preempt_enable
    mov rdi, [rbx+T_STACK]
    call slot_free
    test r15, r15
    jz .Lcreate_free
    mov rdi, rbx
    call user_space_free
.Lcreate_free:
    mov qword ptr [rbx+T_STATE], STATE_FREE
    xor eax, eax
    jmp .Lcreate_end

# struct thread *thread_struct_alloc(void)
# A cleared struct in state RUNNABLE with a fresh id.
thread_struct_alloc:
    push rbx
    push r12
    lea rdi, [rip+thread_lock]
    call spin_lock_irq
    mov r12, rax
    lea rbx, [rip+threads]
    mov ecx, MAX_THREADS
.Lstruct_next:
    cmp qword ptr [rbx+T_STATE], STATE_FREE
    je .Lstruct_found
    add rbx, THREAD_BYTES
    dec ecx
    jnz .Lstruct_next
    lea rdi, [rip+.Lsched_text_threads]
    call panic_text
.Lstruct_found:
    mov rdi, rbx
    mov ecx, 32                         # THREAD_BYTES / 8
    xor eax, eax
    rep stosq
    mov qword ptr [rbx+T_STATE], STATE_RUNNABLE
    inc qword ptr [rip+thread_last_id]
    mov rax, [rip+thread_last_id]
    mov [rbx+T_ID], rax
    lea rdi, [rip+thread_lock]
    mov rsi, r12
    call spin_unlock_irq
    mov rax, rbx
    pop r12
    pop rbx
    ret

# void thread_exit(u64 code)
# Never returns. The stack is torn down by whoever runs next on this CPU.
thread_exit:
    cli
    CURRENT
    mov [rax+T_CODE], rdi
    mov qword ptr [rax+T_STATE], STATE_DEAD
    call schedule

# u64 thread_join(struct thread *t)
# Wait until it is gone; return its exit code. Exactly one join per thread.
thread_join:
    push rbx
    push r12
    push r13
    mov rbx, rdi
    lea rdi, [rbx+T_WQ]
    call spin_lock_irq
    mov r12, rax
.Ljoin_check:
    cmp qword ptr [rbx+T_STATE], STATE_ZOMBIE
    je .Ljoin_gone
    lea rdi, [rbx+T_WQ]
    call wq_sleep
    jmp .Ljoin_check
.Ljoin_gone:
    lea rdi, [rbx+T_WQ]
    mov rsi, r12
    call spin_unlock_irq
    cmp qword ptr [rbx+T_USER], 0
    je .Ljoin_code
    mov rdi, rbx
    call user_space_free
.Ljoin_code:
    mov rax, [rbx+T_CODE]
    mov qword ptr [rbx+T_STATE], STATE_FREE
    pop r13
    pop r12
    pop rbx
    ret

# void set_cpu(u64 cpu)
# The current thread goes on on that CPU. Thread context, preemptible.
set_cpu:
    push rbx
    mov rbx, rdi
    CURRENT
    mov [rax+T_CPU], rbx
.Lset_cpu_go:
    call schedule
    THIS_CPU
    cmp [rax+CPU_ID], rbx
    jne .Lset_cpu_go
    pop rbx
    ret

# void wake(struct thread *t)
# Make a sleeper runnable; nothing if it is not asleep. Interrupts off.
wake:
    push rbx
    push r12
    mov rbx, rdi
    lea rdi, [rbx+T_LOCK]
    call spin_lock
    cmp qword ptr [rbx+T_STATE], STATE_SLEEPING
    jne .Lwake_end
wake_store:                             # traces look for wake-ups here, and take RBX from the address
    mov qword ptr [rbx+T_STATE], STATE_RUNNABLE
    cmp qword ptr [rbx+T_ON_CPU], 0
    jne .Lwake_end                      # still leaving its CPU: finish_switch queues it
    mov rdi, rbx
    call enqueue
.Lwake_end:
    lea rdi, [rbx+T_LOCK]
    call spin_unlock
    pop r12
    pop rbx
    ret

# void enqueue(struct thread *t)
# Append to its CPU's run queue, and tell that CPU if it is another one. Interrupts off.
enqueue:
    push rbx
    push r12
    mov rbx, rdi
    mov r12, [rbx+T_CPU]
    shl r12, CPU_SHIFT
    lea rax, [rip+cpus]
    add r12, rax
    lea rdi, [r12+CPU_RQ_LOCK]
    call spin_lock
    mov qword ptr [rbx+T_NEXT], 0
    mov rax, [r12+CPU_RQ_TAIL]
    mov [r12+CPU_RQ_TAIL], rbx
    test rax, rax
    jz .Lenqueue_first
    mov [rax+T_NEXT], rbx
    jmp .Lenqueue_in
.Lenqueue_first:
    mov [r12+CPU_RQ_HEAD], rbx
.Lenqueue_in:
    call spin_unlock                    # rdi = the lock still
    THIS_CPU
    cmp rax, r12
    je .Lenqueue_end
    mov edi, [r12+CPU_ID]
    mov esi, RESCHED_ICR
    call send_ipi
.Lenqueue_end:
    pop r12
    pop rbx
    ret

# struct thread *dequeue(struct cpu *this)
# The first of this CPU's run queue, or 0. Interrupts off. Changes rax rcx rdi.
dequeue:
    mov rcx, rdi
    lea rdi, [rcx+CPU_RQ_LOCK]
    call spin_lock
    mov rax, [rcx+CPU_RQ_HEAD]
    test rax, rax
    jz .Ldequeue_end
    push rdx
    mov rdx, [rax+T_NEXT]
    mov [rcx+CPU_RQ_HEAD], rdx
    test rdx, rdx
    jnz .Ldequeue_more
    mov [rcx+CPU_RQ_TAIL], rdx
.Ldequeue_more:
    pop rdx
.Ldequeue_end:
    jmp spin_unlock

# void schedule(void)
# Give the CPU to the next runnable thread; return when this one runs again. Any preemptible
# context; no spinlock held. If the state is RUNNING the thread stays runnable.
schedule:
    push rbx
    push r12
    push r13
    pushfq
    cli
    THIS_CPU
    mov r12, rax
    mov rbx, [r12+CPU_THREAD]
    inc qword ptr [rbx+T_PREEMPT]
    mov qword ptr [r12+CPU_RESCHED], 0
    cmp qword ptr [rbx+T_STATE], STATE_RUNNING
    jne .Lsched_pick
    mov qword ptr [rbx+T_STATE], STATE_RUNNABLE
.Lsched_pick:
    mov rdi, r12
    call dequeue
    mov r13, rax
    test rax, rax
    jnz .Lsched_switch
    cmp qword ptr [rbx+T_IS_IDLE], 0
    jne .Lsched_stay
    mov r13, [r12+CPU_IDLE]
    cmp qword ptr [rbx+T_STATE], STATE_RUNNABLE
    jne .Lsched_switch
    mov rax, [rbx+T_CPU]
    cmp rax, [r12+CPU_ID]
    jne .Lsched_switch
.Lsched_stay:
    mov qword ptr [rbx+T_STATE], STATE_RUNNING
    jmp .Lsched_out
.Lsched_switch:
    mov qword ptr [r13+T_STATE], STATE_RUNNING
    mov qword ptr [r13+T_ON_CPU], 1
    inc qword ptr [r12+CPU_SWITCHES]
    cmp qword ptr [r13+T_IS_IDLE], 0
    jne .Lsched_space
    mov rdi, [r13+T_ID]
    mov eax, HYPER_SWITCH_IN
    call hypercall
.Lsched_space:
    mov rax, [r13+T_TOP]
    mov [r12+CPU_KSTACK], rax
    mov rcx, [r12+CPU_TSS]
    mov [rcx+TSS_RSP0], rax
    cmp dword ptr [rip+fred_on], 0
    je .Lsched_cr3
    mov ecx, MSR_FRED_RSP0
    call fred_wrmsr
.Lsched_cr3:
    mov rax, [r13+T_CR3]
    cmp rax, [rbx+T_CR3]
    je .Lsched_go
    cmp dword ptr [rip+pcid_on], 0
    jne .Lsched_pcid
    mov cr3, rax
    jmp .Lsched_go
.Lsched_pcid:
    mov rdi, r13
    call pcid_load
.Lsched_go:
    mov rdi, rbx
    mov rsi, r13
    mov rdx, r12
    call context_switch
    mov rdi, rax                        # another stack: rbx r12 r13 are this thread's old ones
    call finish_switch
.Lsched_out:
    CURRENT
    dec qword ptr [rax+T_PREEMPT]
    popfq
    pop r13
    pop r12
    pop rbx
    ret

# void finish_switch(struct thread *prev)
# On the next thread's stack, preemption off, interrupts off at entry and return, on in between.
finish_switch:
    push rbx
    mov rbx, rdi
    cmp qword ptr [rbx+T_IS_IDLE], 0
    jne .Lfinish_end
    cmp qword ptr [rbx+T_STATE], STATE_DEAD
    je .Lfinish_dead
    cmp dword ptr [rip+policy_attached], 0
    je .Lfinish_off
    sti
    mov rdi, [rbx+T_ID]
    mov rsi, [rbx+T_RSP]
    mov eax, HYPER_SWITCH_OUT
    call hypercall
    cli
.Lfinish_off:
    lea rdi, [rbx+T_LOCK]
    call spin_lock
    mov qword ptr [rbx+T_ON_CPU], 0
    cmp qword ptr [rbx+T_STATE], STATE_RUNNABLE
    jne .Lfinish_unlock
    mov rdi, rbx
    call enqueue
.Lfinish_unlock:
    lea rdi, [rbx+T_LOCK]
    call spin_unlock
.Lfinish_end:
    pop rbx
    ret

# prev has exited: no switch_out for it; its stack goes, its address is free, joiners are told.
.Lfinish_dead:
    sti
    cmp dword ptr [rip+policy_attached], 0
    je .Lfinish_unmap
    mov rdi, [rbx+T_ID]
    mov eax, HYPER_EXIT_THREAD
    call hypercall
    jmp .Lfinish_slot
.Lfinish_unmap:
    mov rdi, [rbx+T_STACK]
    call stack_unmap
.Lfinish_slot:
    mov rdi, [rbx+T_STACK]
    call slot_free
    cli
    lea rdi, [rbx+T_WQ]
    call spin_lock
    mov qword ptr [rbx+T_STATE], STATE_ZOMBIE
    lea rdi, [rbx+T_WQ]
    call wq_wake_all_locked
    lea rdi, [rbx+T_WQ]
    call spin_unlock                    # from here on the struct is the joiner's
    pop rbx
    ret

# void idle_loop(void)
# A CPU with nothing to do. On its boot stack, never preempted, never returns. An interrupt between
# the check and HLT is not lost: STI holds it off for one instruction.
idle_loop:
    cli
    THIS_CPU
    cmp qword ptr [rax+CPU_RQ_HEAD], 0
    jne .Lidle_work
    sti
    hlt
    jmp idle_loop
.Lidle_work:
    call schedule
    jmp idle_loop

.section .rodata
.Lsched_text_threads:
    .asciz "out of threads"
.data
.p2align 3
thread_lock:
    .quad 0
thread_last_id:                         # ids count from 1 and are never reused
    .quad 0
.bss
.p2align 6
threads:                                # MAX_THREADS * THREAD_BYTES
    .zero 16384
idle_threads:                           # MAX_CPUS * THREAD_BYTES
    .zero 16384
