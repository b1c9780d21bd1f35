# Whether rights that have grown may be refused once more, and only once, by what is cached: the rules SPURIOUS_FAULT and
# FAULT_DROPS_PAGE (SDM 4.10.4.1, 4.10.4.3).
#
# A page that can only be read is read, so that its entry is cached. It becomes writable, without INVLPG, and is written,
# twice if the first write faults. A second fault refutes FAULT_DROPS_PAGE.
#
# SPURIOUS_FAULT is a permission. Where the control shows that the entry is cached and no write faults at all, this processor
# walks again instead, and the rule, as a description of it, is refuted.

.equ TRIALS,        64

.text
probe_main:
    push rbx
    push r12
    push r13
    push r14
    push r15
    call controls
    xor r13d, r13d                      # first writes that have faulted
    xor r15d, r15d                      # second ones
    mov r14d, TRIALS
.Lspur_trial:
    FORGET
    ENTRY rax, frame_a, ENTRY_READ
    mov [rdx], rax
    ENTRY rax, frame_a, ENTRY_USED
    mov r10d, WORD_A
    xor r12d, r12d
    BODY_GROW
    xor ebp, ebp
    bt r12d, 0
    adc r13, 0
    bt r12d, 1
    adc r15, 0
    dec r14d
    jnz .Lspur_trial
    lea rdi, [rip+.Lspur_rule]
    mov rsi, r13
    mov edx, TRIALS
    call rule_verdict_none
    lea rdi, [rip+.Lspur_drops]
    mov rsi, r15
    mov edx, TRIALS
    call rule_verdict
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    ret

# The entry that can only be read outlives another one in its place.
controls:
    xor r13d, r13d
    mov r14d, TRIALS
.Lspur_control:
    FORGET
    ENTRY rax, frame_a, ENTRY_READ
    mov [rdx], rax
    mov r9, [rbx]
    ENTRY rax, frame_b, ENTRY_USED
    BODY_TAKEN
    cmp r9, WORD_A
    jne .Lspur_fresh
    inc r13d
.Lspur_fresh:
    dec r14d
    jnz .Lspur_control
    lea rdi, [rip+.Lspur_cached]
    mov esi, r13d
    mov edx, TRIALS
    jmp control

.section .rodata
probe_name:
    .asciz "spurious-fault"
.Lspur_cached:
    .asciz "cached before the rights grow"
.Lspur_rule:
    .asciz "SPURIOUS_FAULT"
.Lspur_drops:
    .asciz "FAULT_DROPS_PAGE"
