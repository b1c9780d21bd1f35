# The context switch.
#
# Only callee-saved registers, the stack pointer and an address are kept; schedule() holds the rest
# on the stack as any function would.
#
#   prev's stack while it is switched out:    T_RSP+48  return address into schedule()
#                                             T_RSP+0   r15 r14 r13 r12 rbp rbx
#
# A new thread starts at thread_begin with an empty stack: nothing is written to a stack before its
# thread runs on it, so its pages are untouched (A and D clear) until then.

.text
# struct thread *context_switch(struct thread *prev, struct thread *next, struct cpu *this)
# Interrupts off. Returns, on next's stack, the thread that was switched out. `current` changes
# right before the stack pointer, with no stack access in between, so a fault on either stack is
# charged to the thread that owns it.
context_switch:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    lea rax, [rip+.Lswitch_resume]
    mov [rdi+T_RIP], rax
    mov [rdi+T_RSP], rsp
    cmp dword ptr [rip+switch_sp_first], 0
    jne .Lswitch_sp_first
    mov [rdx+CPU_THREAD], rsi
    mov rsp, [rsi+T_RSP]
    jmp qword ptr [rsi+T_RIP]
.Lswitch_resume:
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    mov rax, rdi
    ret


# The order of Linux's __switch_to_asm and __switch_to: the stack pointer, then a frame on next's stack,
# and in it `current`. A fault on that frame is charged to prev.
.Lswitch_sp_first:
    mov rsp, [rsi+T_RSP]
    call .Lswitch_to
    jmp qword ptr [rsi+T_RIP]
.Lswitch_to:
    push rbp
    sub rsp, SWITCH_TO_BYTES
    mov [rsp], rdi                      # touch
    mov [rdx+CPU_THREAD], rsi
    add rsp, SWITCH_TO_BYTES
    pop rbp
    ret

# First instruction of every new thread: empty stack, interrupts off, preemption off, rdi = the
# thread that was switched out.
thread_begin:
    call finish_switch
    CURRENT
    dec qword ptr [rax+T_PREEMPT]
    cmp qword ptr [rax+T_USER], 0
    jne .Lbegin_user
    sti
    mov rdi, [rax+T_ARG]
    call qword ptr [rax+T_ENTRY]
    mov rdi, rax
    jmp thread_exit

# To ring 3 for the first time, through a trap frame like any other return.
.Lbegin_user:
    sub rsp, TF_BYTES
    mov rsi, rax
    mov rdi, rsp
    mov ecx, 23                         # TF_BYTES / 8
    xor eax, eax
    rep stosq
    mov rax, [rsi+T_ARG]
    mov [rsp+TF_RDI], rax
    mov rax, [rsi+T_USER]
    and eax, 4095
    add rax, USER_CODE
    mov [rsp+TF_RIP], rax
    mov qword ptr [rsp+TF_CS], USER_CS
    mov rax, [rip+user_rflags]
    mov [rsp+TF_FLAGS], rax
    mov qword ptr [rsp+TF_RSP], USER_STACK_TOP
    mov qword ptr [rsp+TF_SS], USER_DS
    jmp trap_return_user

.data
.p2align 2
switch_sp_first:                        # 1: switch as Linux does; 0: `current` before the stack pointer
    .long 0
.p2align 3
user_rflags:                             # RFLAGS of new ring-3 programs
    .quad FLAGS_USER
