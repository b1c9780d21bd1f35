# Whether the state that is saved at #DF can be returned to: the mode `df-restart` (SDM 6.15: it is undefined).
#
# A PUSH onto a page that is not mapped is a page fault whose frame cannot be pushed, so a double fault, which is taken on a
# stack of its own. If RIP and RSP in its frame are those of the PUSH, the page is mapped and the handler returns there:
# what was pushed has to be on the page then, and RSP below it.
#
# One frame that says otherwise, or one PUSH that does not come out right, refutes `exact`. Nothing refutes `undefined`, which
# allows any state, the exact one, too.

.equ TRIALS,        64
.equ PUSHED,        0x5a5a

.text
probe_main:
    push rbx
    push r12
    push r13
    push r14
    lea rax, [rip+double_fault]
    mov [rip+double_fault_hook], rax
    xor r12d, r12d                      # double faults
    xor r13d, r13d                      # of them not exact
    mov r14d, TRIALS
.Ldf_trial:
    call trial
    dec r14d
    jnz .Ldf_trial
    lea rdi, [rip+.Ldf_taken]
    mov rsi, r12
    mov edx, TRIALS
    call control
    lea rdi, [rip+.Ldf_exact]
    mov rsi, r13
    mov rdx, r12
    call mode_verdict
    lea rdi, [rip+.Ldf_undefined]
    xor esi, esi
    mov rdx, r12
    call mode_verdict
    pop r14
    pop r13
    pop r12
    pop rbx
    ret

# A trial, counted in r12 and r13. rsi = RSP meanwhile, r15 = RSP before.
trial:
    push r15
    FORGET
    lea rsi, [rbx+PAGE_SIZE]
    mov eax, PUSHED
    mov r15, rsp
    mov rsp, rsi
.Ldf_push:
    push rax
    lea rcx, [rsi-8]
    cmp rsp, rcx
    mov rsp, r15
    jne .Ldf_wrong
    cmp qword ptr [rcx], PUSHED
    je .Ldf_done
.Ldf_wrong:
    inc r13
.Ldf_done:
    pop r15
    ret

# #DF, on its IST stack: error code, RIP, CS, RFLAGS, RSP, SS. Counts in r12; rbx, rdx and rsi are the trial's.
double_fault:
    inc r12
    lea rcx, [rip+.Ldf_push]
    cmp [rsp+8], rcx
    jne .Ldf_abandon
    cmp [rsp+32], rsi
    jne .Ldf_abandon
    ENTRY r8, frame_a, ENTRY_USED
    mov [rdx], r8
    add rsp, 8
    iretq
.Ldf_abandon:                           # by none of what was saved
    mov rsp, r15
    jmp .Ldf_wrong

.section .rodata
probe_name:
    .asciz "df-restart"
.Ldf_taken:
    .asciz "double faults"
.Ldf_exact:
    .asciz "df-restart=exact"
.Ldf_undefined:
    .asciz "df-restart=undefined"
