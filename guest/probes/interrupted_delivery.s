# What becomes of an interrupt whose delivery faults: the mode `interrupted-delivery` (SDM 6.10, 6.15).
#
# An interrupt waits with IF clear; RSP points to a page that is not mapped; IF is set. The interrupt's frame cannot be pushed,
# which is a page fault, taken on a stack of its own. Its handler maps the page and returns. Then the interrupt comes once
# more, or it has been lost.
#
# Each value refutes the other: one interrupt that does not come `restarted`, one that comes `lost`. An interrupt that has
# been lost may still be in service in the APIC, so each trial ends with an EOI that nobody asked for. One that still waits
# in the APIC when time is up is late, and the trial does not count.

.equ TRIALS,        64
.equ SELF_ICR,      0x44040             # self, assert, fixed, VEC_PROBE
.equ APIC_IRR,      0x220               # interrupts that wait: vectors 0x40 to 0x5f
.equ MOST_SPINS,    4000                # that are waited for one to wait, or to come

.text
probe_main:
    push rbx
    push r12
    push r13
    push r14
    lea rax, [rip+interrupt]
    mov [rip+interrupt_hook], rax
    lea rax, [rip+page_fault]
    mov [rip+fault_hook], rax
    mov edi, IST_PF
    call set_pf_ist
    mov r14d, TRIALS                    # with the page there
    xor r13d, r13d
.Lint_control:
    ENTRY r10, frame_a, ENTRY_USED
    call trial
    add r13d, [rip+came]
    dec r14d
    jnz .Lint_control
    lea rdi, [rip+.Lint_delivered]
    mov esi, r13d
    mov edx, TRIALS
    call control
    xor r12d, r12d                      # deliveries that have faulted
    xor r13d, r13d                      # and come again
    mov r14d, TRIALS
.Lint_trial:
    xor r10d, r10d
    call trial
    cmp dword ptr [rip+faulted], 1
    jne .Lint_next
    cmp dword ptr [rip+late], 0
    jne .Lint_next
    inc r12
    cmp dword ptr [rip+came], 0
    je .Lint_next
    inc r13
.Lint_next:
    dec r14d
    jnz .Lint_trial
    mov qword ptr [rip+fault_hook], 0
    lea rdi, [rip+.Lint_interrupted]
    mov rsi, r12
    mov edx, TRIALS
    call control
    lea rdi, [rip+.Lint_restarted]
    mov rsi, r12
    sub rsi, r13
    mov rdx, r12
    call mode_verdict
    lea rdi, [rip+.Lint_lost]
    mov rsi, r13
    mov rdx, r12
    call mode_verdict
    pop r14
    pop r13
    pop r12
    pop rbx
    ret

# A trial whose page has the entry r10: counts in `came`, `faulted` and `late`.
trial:
    mov dword ptr [rip+came], 0
    mov dword ptr [rip+faulted], 0
    mov dword ptr [rip+late], 0
    FORGET
    mov [rdx], r10
    movabs rax, APIC_BASE
    mov dword ptr [rax+APIC_ICR_LO], SELF_ICR
    mov ecx, MOST_SPINS
.Lint_arrive:
    pause
    test dword ptr [rax+APIC_IRR], 1
    jnz .Lint_waits
    dec ecx
    jnz .Lint_arrive
.Lint_waits:
    mov r15, rsp
    lea rsp, [rbx+PAGE_SIZE]
    mov ecx, MOST_SPINS
    sti
.Lint_take:
    pause
    cmp dword ptr [rip+came], 0
    jne .Lint_over
    dec ecx
    jnz .Lint_take
.Lint_over:
    cli
    mov rsp, r15
    test dword ptr [rax+APIC_IRR], 1
    jz probe_eoi
    inc dword ptr [rip+late]
    sti                                 # let it come, on a stack that is there
    mov ecx, MOST_SPINS
    call spin
    cli
    jmp probe_eoi

# VEC_PROBE, on the page of the trial: keeps everything.
interrupt:
    inc dword ptr [rip+came]
    push rax
    call probe_eoi
    pop rax
    iretq

# #PF, on an IST stack: maps the page of the trial. Keeps rcx.
page_fault:
    inc dword ptr [rip+faulted]
    mov r11, rcx
    ENTRY r8, frame_a, ENTRY_USED
    mov rcx, r11
    mov [rdx], r8
    add rsp, 8
    iretq

.section .rodata
probe_name:
    .asciz "interrupted-delivery"
.Lint_delivered:
    .asciz "delivered where the stack is there"
.Lint_interrupted:
    .asciz "deliveries that fault"
.Lint_restarted:
    .asciz "interrupted-delivery=restarted"
.Lint_lost:
    .asciz "interrupted-delivery=lost"
.data
.p2align 2
came:
    .long 0
faulted:
    .long 0
late:
    .long 0
