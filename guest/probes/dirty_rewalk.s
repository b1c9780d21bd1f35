# Whether a write through an entry that is cached with D clear walks again: the mode `dirty-rewalk` (SDM 4.8).
#
# A page is read, so that its entry is cached with D clear, and the entry is exchanged. A read behind that shows by the first
# frame's word that the cached entry is still there; only then does the trial count. Then the page is written: to the first
# frame, through what is cached; or to the second one, or with a fault where the new entry is not present, by a walk.
#
# One write to the first frame refutes `yes`. A write that walks may do so because the entry was dropped just before, so `no`
# is refuted only where all of them walk.

.equ TRIALS,        96                  # of each kind

.text
probe_main:
    push rbx
    push r12
    push r13
    push r14
    xor r12d, r12d                      # trials that count
    xor r13d, r13d                      # writes to the first frame
    mov r14d, TRIALS
.Ldirty_trial:
    ENTRY r11, frame_b, ENTRY_USED
    call trial
    xor r11d, r11d
    call trial
    dec r14d
    jnz .Ldirty_trial
    lea rdi, [rip+.Ldirty_cached]
    mov rsi, r12
    mov edx, 2*TRIALS
    call control
    lea rdi, [rip+.Ldirty_yes]
    mov rsi, r13
    mov rdx, r12
    call mode_verdict
    lea rdi, [rip+.Ldirty_no]
    mov rsi, r12
    sub rsi, r13
    mov rdx, r12
    call mode_verdict_all
    pop r14
    pop r13
    pop r12
    pop rbx
    ret

# A trial whose second entry is r11; counted in r12 and r13.
trial:
    push r12
    call frames_fill
    FORGET
    ENTRY rax, frame_a, ENTRY_CLEAN
    mov [rdx], rax
    mov r9, [rbx]
    mov rax, r11
    mov r10d, WORD_NEW
    xor r9d, r9d
    lea rbp, [rip+.Ldirty_gone]         # the read faults, too, if the entry has been dropped
    BODY_CLEAN
.Ldirty_gone:
    xor ebp, ebp
    pop r12
    cmp r9, WORD_A
    jne .Ldirty_counted
    inc r12
    cmp qword ptr [rip+frame_a], WORD_NEW
    jne .Ldirty_counted
    inc r13
.Ldirty_counted:
    ret

.section .rodata
probe_name:
    .asciz "dirty-rewalk"
.Ldirty_cached:
    .asciz "cached with D clear before the write"
.Ldirty_yes:
    .asciz "dirty-rewalk=yes"
.Ldirty_no:
    .asciz "dirty-rewalk=no"
