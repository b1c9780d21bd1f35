# Runaway recursion into the guard page, and a request for more stack than there is.
#
# A (CPU 0) asks for the rest of its stack and then for more than that, which must be refused. Then
# it recurses without end, interrupts off, so that nothing but the recursion itself runs into the
# guard. The guest catches what comes of it (#DF on IST 1, or #PF where the policy gives that a stack
# of its own) and kills the thread; a second thread on the same stack slot finds everything in order.

.equ SYS_RECURSE,   64                  # recurse()
.equ SYS_CHECK,     65                  # check()
.equ LEVEL_BYTES,   128                 # of stack a level
.equ LEVELS,        200                 # more than the stack holds

.text
# u64 recursion_dive(void)
# A. Kills the thread when it has hit the guard; returns 1 if it has not.
recursion_dive:
    push rbx
    mov edi, STACK_BYTES
    call stack_request                  # the trap frame is there already: more than there is
    test rax, rax
    jnz .Ldive_granted
    mov edi, STACK_BYTES-512
    call stack_request
    test rax, rax
    jz .Ldive_refused
    lea rdi, [rip+.Levent_asked]
    call event
    lea rdi, [rip+recurse]
    mov esi, LEVELS
    call try_call
    sti
    mov rbx, rax
    CURRENT
    mov rcx, [rax+T_STACK]
    dec rcx
    sub rcx, [rip+fault_cr2]
    cmp rcx, GUARD_BYTES
    jae .Ldive_elsewhere
    cmp rbx, VEC_DF
    je .Ldive_hit
    cmp rbx, VEC_PF
    jne .Ldive_elsewhere
.Ldive_hit:
    inc qword ptr [rip+round_count]
    lea rdi, [rip+.Levent_killed]
    call event
    xor edi, edi                        # a normal code: it was to be killed
    jmp thread_exit
.Ldive_granted:
    lea rdi, [rip+.Lrecursion_text_granted]
    call say
    jmp .Ldive_wrong
.Ldive_refused:                         # a policy may say no; then there is nothing to overflow
    inc qword ptr [rip+round_count]
    xor eax, eax
    pop rbx
    ret
.Ldive_elsewhere:
    lea rdi, [rip+.Lrecursion_text_elsewhere]
    call say
.Ldive_wrong:
    lock inc qword ptr [rip+wrong_count]
    mov eax, 1
    pop rbx
    ret

# void recurse(u64 levels)
recurse:
    cli
    sub rsp, LEVEL_BYTES-8
    mov [rsp], rdi
    dec rdi
    jz .Lrecurse_end
    call recurse
.Lrecurse_end:
    add rsp, LEVEL_BYTES-8
    ret

# u64 recursion_check(void)
# The next thread: the stack is whole, down to about 12 KiB.
recursion_check:
    xor edi, edi
    mov esi, 11
    lea rdx, [rip+recursion_bottom]
    call ask_deep
    inc qword ptr [rip+round_count]
    ret
recursion_bottom:
    xor eax, eax
    ret

# u64 recursion_conduct(void)
# Two runaways, and after each a thread that is none, all on one stack slot.
recursion_conduct:
    push rbx
    push r12
    push r13
    xor ebx, ebx
    xor r12d, r12d
    xor r13d, r13d
.Lconduct_next:
    lea rdi, [rip+recursion_user]
    mov rsi, rbx
    and esi, 1
    xor edx, edx
    call start_user
    mov rcx, [rax+T_STACK]
    test r13, r13
    jnz .Lconduct_slot
    mov r13, rcx
.Lconduct_slot:
    cmp r13, rcx
    jne .Lconduct_moved
    mov rdi, rax
    call thread_join
    or r12, rax
    inc ebx
    cmp ebx, 4
    jb .Lconduct_next
    mov rax, r12
    jmp .Lconduct_end
.Lconduct_moved:
    mov eax, 1
.Lconduct_end:
    pop r13
    pop r12
    pop rbx
    ret

# ---- ring 3
.p2align 12, 0x90
recursion_user:                         # rdi = 0: recurse, 1: check
    lea eax, [rdi+SYS_RECURSE]
    syscall
    mov rdi, rax
    mov eax, SYS_EXIT
    syscall
.p2align 12, 0x90

.section .rodata
scenario_name:
    .asciz "recursion"
.Levent_asked:
    .asciz "asked"
.Levent_killed:
    .asciz "killed"
.Lrecursion_text_granted:
    .asciz ": more stack was granted than there is\n"
.Lrecursion_text_elsewhere:
    .asciz ": the recursion ended elsewhere than in the guard\n"
.p2align 3
scenario_threads:
    .quad 0
scenario_calls:
    .quad recursion_dive
    .quad recursion_check
    .quad 0
.data
.p2align 3
scenario_conductor:
    .quad recursion_conduct
scenario_tick:
    .long 0
.p2align 3
scenario_pool:
    .quad POOL_PAGES
