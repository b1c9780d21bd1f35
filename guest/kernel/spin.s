# Spinlocks.
#
# SDM 8.1 (locked operations), 8.10.2 (PAUSE).

.text
# void spin_lock(u64 *lock)
# Interrupts off, or never taken by an interrupt handler and preemption off. Changes rax only.
spin_lock:
    mov eax, 1
    xchg [rdi], rax
    test rax, rax
    jz .Lspin_got
.Lspin_wait:
    pause
    cmp qword ptr [rdi], 0
    jne .Lspin_wait
    jmp spin_lock
.Lspin_got:
    ret

# void spin_unlock(u64 *lock)
spin_unlock:
    mov qword ptr [rdi], 0
    ret

# u64 spin_lock_irq(u64 *lock)
# Turn interrupts off, take the lock, return the old flags. Changes rax only.
spin_lock_irq:
    pushfq
    cli
    call spin_lock
    pop rax
    ret

# void spin_unlock_irq(u64 *lock, u64 flags)
spin_unlock_irq:
    mov qword ptr [rdi], 0
    push rsi
    popfq
    ret
