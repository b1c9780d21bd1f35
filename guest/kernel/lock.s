# Preemption, and locks that sleep: wait queue, mutex.
#
# The entry of a sleeper lies on the sleeper's own
# kernel stack and is read and unlinked by whichever CPU wakes it, as Linux's mutex_waiter and
# wait_queue_entry are. This is what makes a kernel stack visible to other CPUs.

.text
# void preempt_disable(void)
# The current thread keeps its CPU until the matching preempt_enable. Changes rax only.
preempt_disable:
    CURRENT
    inc qword ptr [rax+T_PREEMPT]
    ret

# void preempt_enable(void)
# Gives the CPU up at once if that was asked for meanwhile and interrupts are on.
preempt_enable:
    CURRENT
    dec qword ptr [rax+T_PREEMPT]
    jnz .Lpreempt_end
    THIS_CPU
    cmp qword ptr [rax+CPU_RESCHED], 0
    je .Lpreempt_end
    pushfq
    pop rax
    bt rax, FLAGS_IF_BIT
    jnc .Lpreempt_end
    jmp schedule
.Lpreempt_end:
    ret

# void wq_sleep(struct wq *wq)
# Sleep until woken. The queue's lock is held with interrupts off at entry and at return; it is
# free in between. Stack: entry {next, thread} at rsp while asleep.
wq_sleep:
    push rbx
    sub rsp, 16                         # struct wait_entry
    mov rbx, rdi
    CURRENT
    mov qword ptr [rsp+WE_NEXT], 0
    mov [rsp+WE_THREAD], rax
    mov qword ptr [rax+T_STATE], STATE_SLEEPING
    call share_stack
    mov rcx, rsp
    call wq_append
    mov rdi, rbx
    call spin_unlock
    call schedule
    mov rdi, rbx
    call spin_lock
    add rsp, 16
    pop rbx
    ret

# Append entry rcx to queue rdi. Lock held. Changes rdx.
wq_append:
    mov rdx, [rdi+WQ_TAIL]
    test rdx, rdx
    jz .Lwq_first
    mov [rdx+WE_NEXT], rcx
    mov [rdi+WQ_TAIL], rcx
    ret
.Lwq_first:
    mov [rdi+WQ_HEAD], rcx
    mov [rdi+WQ_TAIL], rcx
    ret

# struct thread *wq_pop(struct wq *wq)
# Unlink the first entry; 0 if none. Lock held. The entry lies on the sleeper's stack and is gone
# once the sleeper runs, so everything is read before anybody wakes it.
wq_pop:
    mov rcx, [rdi+WQ_HEAD]
    xor eax, eax
    test rcx, rcx
    jz .Lwq_pop_end
    mov rax, [rcx+WE_THREAD]
    mov rdx, [rcx+WE_NEXT]
    mov [rdi+WQ_HEAD], rdx
    test rdx, rdx
    jnz .Lwq_pop_end
    mov [rdi+WQ_TAIL], rdx
.Lwq_pop_end:
    ret

# u64 wq_wake_one(struct wq *wq)
# Wake the longest sleeper; returns 1 if there was one. Any context that may take spinlocks.
wq_wake_one:
    push rbx
    push r12
    push r13
    mov rbx, rdi
    call spin_lock_irq
    mov r12, rax
    xor r13d, r13d
    mov rdi, rbx
    call wq_pop
    test rax, rax
    jz .Lwake_one_end
    mov r13d, 1
    mov rdi, rax
    call wake
.Lwake_one_end:
    mov rdi, rbx
    mov rsi, r12
    call spin_unlock_irq
    mov eax, r13d
    pop r13
    pop r12
    pop rbx
    ret

# void wq_wake_all_locked(struct wq *wq)
# Lock held, interrupts off.
wq_wake_all_locked:
    push rbx
    mov rbx, rdi
.Lwake_all_next:
    mov rdi, rbx
    call wq_pop
    test rax, rax
    jz .Lwake_all_end
    mov rdi, rax
    call wake
    jmp .Lwake_all_next
.Lwake_all_end:
    pop rbx
    ret

# void wq_wake_all(struct wq *wq)
wq_wake_all:
    push rbx
    push r12
    mov rbx, rdi
    call spin_lock_irq
    mov r12, rax
    mov rdi, rbx
    call wq_wake_all_locked
    mov rdi, rbx
    mov rsi, r12
    call spin_unlock_irq
    pop r12
    pop rbx
    ret

# void mutex_lock(struct mutex *m)
# Sleeps while another thread holds it. Thread context, interrupts on.
mutex_lock:
    push rbx
    push r12
    mov rbx, rdi
    call spin_lock_irq
    mov r12, rax
    cmp qword ptr [rbx+MX_HELD], 0
    jne .Lmutex_sleep
    mov qword ptr [rbx+MX_HELD], 1
    jmp .Lmutex_locked
.Lmutex_sleep:
    mov rdi, rbx
    call wq_sleep                       # the unlocker hands the mutex over, still held
.Lmutex_locked:
    mov rdi, rbx
    mov rsi, r12
    call spin_unlock_irq
    pop r12
    pop rbx
    ret

# void mutex_unlock(struct mutex *m)
# Hands the mutex to the longest waiter, if any.
mutex_unlock:
    push rbx
    push r12
    mov rbx, rdi
    call spin_lock_irq
    mov r12, rax
    mov rdi, rbx
    call wq_pop
    test rax, rax
    jz .Lmutex_free
    mov rdi, rax
    call wake
    jmp .Lmutex_unlocked
.Lmutex_free:
    mov qword ptr [rbx+MX_HELD], 0
.Lmutex_unlocked:
    mov rdi, rbx
    mov rsi, r12
    call spin_unlock_irq
    pop r12
    pop rbx
    ret
