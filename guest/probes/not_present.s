# Whether an entry that is not present is ever cached: the rule NOT_PRESENT_NOT_CACHED (SDM 4.10.2.3, 4.10.4.3).
#
# A page that is not mapped is accessed, which faults. Then it is mapped, without INVLPG, and accessed again: on the same CPU,
# and on another one than that which maps it. The second access may not fault. One that does refutes the rule.

.equ TRIALS,        64                  # of each kind

.text
probe_main:
    push rbx
    push r12
    push r13
    push r14
    push r15
    xor r13d, r13d                      # second accesses that have faulted
    xor r14d, r14d                      # first ones that have
    xor r15d, r15d                      # trials
    lea rbx, [rip+trial_own]
    call measure
    cmp dword ptr [rip+second_here], 0
    je .Lnot_verdict
    lea rbx, [rip+trial_other]
    call measure
.Lnot_verdict:
    lea rdi, [rip+.Lnot_first]
    mov rsi, r14
    mov rdx, r15
    call control
    lea rdi, [rip+.Lnot_rule]
    mov rsi, r13
    mov rdx, r15
    call rule_verdict
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    ret

# Trials of rbx, counted in r13 to r15.
measure:
    push rbx
    mov dword ptr [rip+trials_left], TRIALS
.Lnot_trial:
    xor r12d, r12d
    mov rax, [rsp]
    call rax
    xor ebp, ebp
    inc r15
    bt r12d, 0
    adc r14, 0
    bt r12d, 1
    adc r13, 0
    dec dword ptr [rip+trials_left]
    jnz .Lnot_trial
    pop rbx
    ret

# A trial on this CPU: bit n of r12 says whether access n has faulted.
trial_own:
    FORGET
    ENTRY rax, frame_a, ENTRY_USED
    BODY_APPEAR
    ret

# The same where the second CPU accesses. 1: it has done so for the first time.
trial_other:
    mov qword ptr [rip+trial_phase], 0
    mov qword ptr [rip+told], 0
    FORGET
    lea rdi, [rip+look_twice]
    call second_begin
    mov edi, 1
    call phase_wait
    ENTRY rax, frame_a, ENTRY_USED
    lea rsi, [rip+told]
    BODY_APPEAR_0
    call second_wait
    mov r12, [rip+faults]
    ret
look_twice:
    movabs rbx, PROBED_PAGE
    invlpg [rbx]
    xor r12d, r12d
    BODY_TRY 0, mov r8, [rbx]
    mov edi, 1
    call phase_is
    lea rsi, [rip+told]
    BODY_APPEAR_1
    xor ebp, ebp
    mov [rip+faults], r12
    ret

.section .rodata
probe_name:
    .asciz "not-present"
.Lnot_first:
    .asciz "faults before the page is mapped"
.Lnot_rule:
    .asciz "NOT_PRESENT_NOT_CACHED"
.data
.p2align 3
told:                                   # CPU 0 has mapped the page
    .quad 0
faults:
    .quad 0
trials_left:
    .long 0
