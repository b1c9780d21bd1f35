# Self-test: NMI and its blocking until IRET, the STI shadow.

.equ APIC_IRR_7,  0x270                 # requests of vectors 0xe0 to 0xff
.equ IRR_RESCHED, 17                    # 0xf1 & 31

.text
# void nmi_to_self(void)
# The self shorthand cannot carry an NMI, so this CPU is addressed by its id.
nmi_to_self:
    THIS_CPU
    mov edi, [rax+CPU_ID]
    mov esi, ICR_NMI
    jmp send_ipi

# u64 nmi_once(void)
# One NMI to this CPU with interrupts off; its frame's address in nmi_frame. TEST_PASS if it came.
nmi_once:
    push rbx
    lea rax, [rip+note_nmi]
    mov [rip+nmi_hook], rax
    pushfq
    cli
    THIS_CPU
    lea rdi, [rax+CPU_NMIS]
    mov rsi, [rdi]
    push rdi
    push rsi
    call nmi_to_self
    pop rsi
    pop rdi
    call wait_above
    popfq
    mov qword ptr [rip+nmi_hook], 0
    pop rbx
    ret
note_nmi:
    mov [rip+nmi_frame], rdi
    ret

test_nmi_self:
    jmp nmi_once

# The hook of the first NMI sends a second one and waits; it must not come before the first has
# returned, and must come then.
test_nmi_blocked:
    push rbx
    lea rax, [rip+nest_nmi]
    mov [rip+nmi_hook], rax
    mov dword ptr [rip+nmi_depth], 0
    mov dword ptr [rip+nmi_deepest], 0
    mov dword ptr [rip+nmi_entries], 0
    THIS_CPU
    lea rbx, [rax+CPU_NMIS]
    push qword ptr [rbx]
    call nmi_to_self
    pop rsi
    inc rsi
    mov rdi, rbx
    call wait_above
    mov qword ptr [rip+nmi_hook], 0
    cmp dword ptr [rip+nmi_deepest], 1
    je .Lnmi_blocked_end
    mov eax, TEST_FAIL
.Lnmi_blocked_end:
    pop rbx
    ret
nest_nmi:
    inc dword ptr [rip+nmi_depth]
    mov eax, [rip+nmi_depth]
    cmp eax, [rip+nmi_deepest]
    jbe .Lnest_seen
    mov [rip+nmi_deepest], eax
.Lnest_seen:
    inc dword ptr [rip+nmi_entries]
    cmp dword ptr [rip+nmi_entries], 1
    jne .Lnest_out
    call nmi_to_self
    mov ecx, 100000
.Lnest_wait:
    pause
    dec ecx
    jnz .Lnest_wait
.Lnest_out:
    dec dword ptr [rip+nmi_depth]
    ret

# An interrupt is pending: `sti; cli` lets it through nowhere, `sti; nop` does.
test_sti_shadow:
    push rbx
    THIS_CPU
    mov rbx, rax
    cli
    mov edi, [rbx+CPU_ID]
    mov esi, RESCHED_ICR
    call send_ipi
    movabs rax, APIC_BASE
    mov ecx, SPIN_LIMIT
.Lshadow_wait:
    bt dword ptr [rax+APIC_IRR_7], IRR_RESCHED
    jc .Lshadow_pending
    pause
    dec ecx
    jnz .Lshadow_wait
    jmp .Lshadow_fail
.Lshadow_pending:
    mov rdx, [rbx+CPU_RESCHEDS]
    sti
    cli
    cmp rdx, [rbx+CPU_RESCHEDS]
    jne .Lshadow_fail
    sti
    nop
    nop
    cmp rdx, [rbx+CPU_RESCHEDS]
    je .Lshadow_fail
    mov eax, TEST_PASS
    pop rbx
    ret
.Lshadow_fail:
    sti
    mov eax, TEST_FAIL
    pop rbx
    ret

.data
.p2align 3
nmi_frame:
    .quad 0
nmi_depth:
    .long 0
nmi_deepest:
    .long 0
nmi_entries:
    .long 0
