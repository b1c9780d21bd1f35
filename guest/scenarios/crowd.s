# Two CPUs shrink and grow stacks at the same time, and a third reads them.
#
# A pair of threads on CPU 0 and another on CPU 2 go deep and give way to each other, so that each switch
# shrinks one stack and fills another. B (CPU 1) reads every page of one stack of each pair meanwhile, as
# in unwinder.s, interrupts off for each sweep. So two CPUs ask B at once to invalidate, for different
# pages: an answer to one must not pass for an answer to the other.

.equ SYS_GROW,      64                  # grow(round)
.equ SYS_READ,      65
.equ PAIR_ROUNDS,   0x4006              # six of grow
.equ B_ROUNDS,      0x4101
.equ LAST,          5
.equ DEPTH,         11                  # KiB
.equ SWEEPS,        20000               # until B gives up
.equ MAGIC,         0x43524f5744000000  # "CROWD"; plus the round

.text
# u64 crowd_grow(u64 round)
# The first thread on each CPU that comes here is read by B.
crowd_grow:
    push rbx
    push r12
    mov rbx, rdi
    CURRENT
    mov r12, rax
    THIS_CPU
    mov rcx, [rax+CPU_ID]
    lea rdx, [rip+victims]
    cmp qword ptr [rdx+rcx*8], 0
    jne .Lgrow_deep
    mov [rdx+rcx*8], r12
.Lgrow_deep:
    mov rdi, rbx
    mov esi, DEPTH
    lea rdx, [rip+crowd_deep]
    call ask_deep
    push rax
    push rax
    call schedule
    lock inc qword ptr [rip+round_count]
    cmp rbx, LAST
    jb .Lgrow_end
    lock inc qword ptr [rip+finished]
    lea rdi, [rip+swept]                # B reads this stack: it has to be there until then
    mov esi, 1
    call gate_sleep
.Lgrow_end:
    pop rax
    pop rax
    pop r12
    pop rbx
    ret
crowd_deep:
    push rbx
    movabs rbx, MAGIC
    add rbx, rdi
    push rbx
    call schedule
    pop rax
    cmp rax, rbx
    je .Ldeep_right
    lock inc qword ptr [rip+wrong_count]
.Ldeep_right:
    xor eax, eax
    pop rbx
    ret

# u64 crowd_read(void)
# B, until all four have done their rounds.
crowd_read:
    push rbx
    push r12
    push r13
    push r14
    mov r13d, SWEEPS
.Lread_sweep:
    xor r14d, r14d
.Lread_victim:
    lea rax, [rip+victims]
    mov r12, [rax+r14*8]
    test r12, r12
    jz .Lread_next
    mov r12, [r12+T_STACK]
    cli
    mov ebx, 4
.Lread_page:
    dec ebx
    mov rsi, rbx
    shl rsi, 12                         # PAGE_SIZE
    add rsi, r12
    lea rdi, [rip+crowd_look]
    call try_call                       # a page that is not mapped is no matter
    test ebx, ebx
    jnz .Lread_page
    sti
.Lread_next:
    add r14d, 2                         # CPUs 0 and 2
    cmp r14d, 2
    jbe .Lread_victim
    cmp qword ptr [rip+finished], 4
    jae .Lread_end
    dec r13d
    jnz .Lread_sweep
    jmp give_up
.Lread_end:
    lea rdi, [rip+swept]
    call gate_raise
    xor eax, eax
    pop r14
    pop r13
    pop r12
    pop rbx
    ret
# void crowd_look(u64 page)
crowd_look:
    mov rax, [rdi+PAGE_SIZE/2]          # the access in question
    ret

.section .rodata
scenario_name:
    .asciz "crowd"
.p2align 3
scenario_threads:
    .quad user_rounds, B_ROUNDS, 1
    .quad user_rounds, PAIR_ROUNDS, 0
    .quad user_rounds, PAIR_ROUNDS, 2
    .quad user_rounds, PAIR_ROUNDS, 0
    .quad user_rounds, PAIR_ROUNDS, 2
    .quad 0
scenario_calls:
    .quad crowd_grow
    .quad crowd_read
    .quad 0
.data
.p2align 3
scenario_conductor:
    .quad 0
scenario_tick:
    .long 0
.p2align 3
scenario_pool:
    .quad POOL_PAGES
.bss
.p2align 3
victims:                                # by CPU: whose stack is read
    .zero 24
finished:                               # threads that have done their rounds
    .zero 8
swept:                                  # B has done
    .zero GATE_BYTES
