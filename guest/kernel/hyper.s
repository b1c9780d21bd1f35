# Hypercalls: how the kernel tells the machine's stack policy what it is about to do.
#
# An OUT to a port that nothing else answers, so the same image runs on QEMU. The machine may run
# the policy for a long time before the OUT completes. If interrupts are on it takes them
# meanwhile, with RIP at the OUT and all registers unchanged, as a REP instruction would; hence
# preemption must be off around every call that is made with interrupts on. The jump after the OUT
# ends the translated block, which is where the machine can stop.

.text
# u64 hypercall(rdi, rsi, rdx, rcx; function in eax)
# Changes rax only. The result is 0 where no policy is attached.
hypercall:
    cmp dword ptr [rip+policy_attached], 0
    je .Lhypercall_none
    out PORT_HYPERCALL, eax
    jmp .Lhypercall_done
.Lhypercall_done:
    ret
.Lhypercall_none:
    xor eax, eax
    ret

# void event(const char *name)
# Mark a point of the guest's run by name, attached or not. Changes nothing. Never blocks.
event:
    push rax
    mov eax, HYPER_EVENT
    out PORT_HYPERCALL, eax
    jmp .Levent_done
.Levent_done:
    pop rax
    ret

# void hyper_init(void)
# Is a policy attached? Asked once, at boot.
hyper_init:
    in eax, PORT_HYPERCALL
    cmp eax, HYPER_ATTACHED
    jne .Lhyper_none
    mov dword ptr [rip+policy_attached], 1
.Lhyper_none:
    ret

# void hyper_boot(void)
# Once, by the boot CPU, after the others are up and before any thread exists.
hyper_boot:
    mov edi, POOL_START
    mov rsi, [rip+scenario_pool]
    cmp rsi, POOL_PAGES
    jb .Lhyper_pool
    mov edi, RAM_END                    # the kernel itself uses nothing above
    ja .Lhyper_pool
    mov edi, POOL_START
    mov rax, [rip+cpu_count]
    shl rax, POOL_CPU_SHIFT
    cmp rax, rsi
    jbe .Lhyper_pool
    push rax
    mov rdi, rax
    call frames_reserve
    mov edi, eax
    pop rsi
.Lhyper_pool:
    shl rsi, 12                         # PAGE_SIZE
    lea rdx, [rip+mailboxes]
    mov rcx, [rip+cpu_count]
    shl rcx, 32
    or rcx, MAILBOX_BYTES
    mov eax, HYPER_BOOT
    call hypercall
    mov [rip+boot_answer], eax
    ret

# void obey_first(void)
# What BOOT has answered, as far as it concerns all CPUs. Boot CPU, while the others take no events.
# Without a policy everything stays as the image has it.
obey_first:
    cmp dword ptr [rip+policy_attached], 0
    je .Lobey_first_end
    bt dword ptr [rip+boot_answer], ANSWER_PCID_BIT
    jnc .Lobey_delivery
    call pcid_boot
.Lobey_delivery:
    mov eax, [rip+boot_answer]
    and eax, ANSWER_DELIVERY
    xor edi, edi
    cmp eax, DELIVERY_IST
    jne set_pf_ist
    mov edi, IST_PF
    jmp set_pf_ist
.Lobey_first_end:
    ret

# void obey(void)
# ... and as far as it concerns this CPU: every CPU before it takes part. Interrupts off.
obey:
    cmp dword ptr [rip+policy_attached], 0
    je .Lobey_end
    bt dword ptr [rip+boot_answer], ANSWER_PCID_BIT
    jnc .Lobey_fred
    call pcid_init
.Lobey_fred:
    mov eax, [rip+boot_answer]
    and eax, ANSWER_DELIVERY
    cmp eax, DELIVERY_FRED
    je fred_init
.Lobey_end:
    ret

# u64 stack_request(u64 bytes)
# Is there so much stack below the caller? Returns 1 if so. What the stack has not got at all is
# refused here; the rest is the policy's to find, which is told the depth from the top in bytes.
# Without a policy it is always there. Thread context; may sleep in the policy, so call it with
# interrupts on.
stack_request:
    push rbx
    CURRENT
    mov rbx, rsp
    sub rbx, [rax+T_STACK]
    cmp rdi, rbx
    ja .Lrequest_no
    mov rsi, [rax+T_TOP]
    sub rsi, rsp
    add rsi, rdi
    cmp dword ptr [rip+policy_attached], 0
    mov eax, 1
    je .Lrequest_end
    call preempt_disable
    CURRENT
    mov rdi, [rax+T_ID]
    mov eax, HYPER_REQUEST
    call hypercall
    mov rbx, rax
    call preempt_enable
    mov rax, rbx
    jmp .Lrequest_end
.Lrequest_no:
    xor eax, eax
.Lrequest_end:
    pop rbx
    ret

# void share_stack(void)
# Tell the policy that a pointer into this thread's stack is about to be handed out: before a waiter or
# an item is linked into a list that others walk. Thread context, interrupts as they are. Changes nothing.
share_stack:
    pushfq
    cli
    push rax
    push rdi
    CURRENT
    mov rdi, [rax+T_ID]
    mov eax, HYPER_SHARE
    call hypercall
    pop rdi
    pop rax
    popfq
    ret

# void memory_pressure(u64 pages)
# Tell the policy that so many pages are wanted back.
memory_pressure:
    push rdi
    call preempt_disable
    pop rdi
    mov eax, HYPER_PRESSURE
    call hypercall
    jmp preempt_enable

.data
.p2align 2
policy_attached:                        # 1 if a policy answers the hypercalls
    .long 0
boot_answer:                            # ANSWER_*
    .long 0
