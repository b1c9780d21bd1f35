# poll(): one thread waits on sixteen queues, with an entry on its stack for each.
#
# Each round A (CPU 0) goes deep, puts sixteen entries on its stack and hangs one into each queue. B
# (CPU 1) walks all queues and writes an answer into every entry, first while A still runs and then
# while it sleeps; through the last one it wakes A, which takes all entries off again and counts the
# answers. In between A's stack shrinks and comes back.

.equ SYS_POLL,      65                  # poll(round)
.equ SYS_WALK,      66                  # walk(round)
.equ SYS_REST,      67
.equ SYS_NOTHING,   68
.equ A_ROUNDS,      0x44434103
.equ B_ROUNDS,      0x4203
.equ QUEUES,        16
.equ DEPTH,         5                   # KiB; the entries lie about 6 KiB deep
.equ MAGIC,         0x504f4c4c00000000  # "POLL"; plus round * 256 plus queue

# struct poll_entry, on A's stack; begins as a wait entry
.equ PE_MAGIC,      16
.equ PE_ANSWERS,    24
.equ PE_BYTES,      32

.text
# u64 poll_poll(u64 round)
# A.
poll_poll:
    mov esi, DEPTH
    lea rdx, [rip+poll_entries]
    call ask_deep
    inc qword ptr [rip+round_count]
    ret

# The entries live in this frame.
poll_entries:
    push rbx
    push r12
    push r13
    sub rsp, QUEUES*PE_BYTES
    mov rbx, rdi
    CURRENT
    mov [rip+polling_thread], rax
    mov r12, rax
    movabs r8, MAGIC
    mov rax, rbx
    shl rax, 8
    add r8, rax
    call share_stack
    xor r13d, r13d
.Lentries_add:
    mov rcx, r13
    shl ecx, 5                          # PE_BYTES
    add rcx, rsp
    mov qword ptr [rcx+WE_NEXT], 0
    mov [rcx+WE_THREAD], r12
    mov [rcx+PE_MAGIC], r8
    mov qword ptr [rcx+PE_ANSWERS], 0
    call poll_queue
    mov [rdi], rcx                      # nobody else waits there
    inc r8
    inc r13d
    cmp r13d, QUEUES
    jb .Lentries_add
    lea rdi, [rip+hung]
    call gate_raise
    lea rdi, [rip+.Levent_hung]
    call event
    lea rdi, [rip+walked]               # once while it runs
    lea rsi, [rbx+1]
    call gate_spin
    lea rdi, [rip+poll_lock]            # once asleep
    call spin_lock_irq
    mov r13, rax
    cmp [rip+poll_done], rbx
    ja .Lentries_awake
    mov qword ptr [r12+T_STATE], STATE_SLEEPING
    lea rdi, [rip+poll_lock]
    call spin_unlock
    call schedule
    lea rdi, [rip+poll_lock]
    call spin_lock
.Lentries_awake:
    lea rdi, [rip+poll_lock]
    mov rsi, r13
    call spin_unlock_irq
    xor r13d, r13d
.Lentries_off:
    mov rcx, r13
    shl ecx, 5
    add rcx, rsp
    call poll_queue
    mov qword ptr [rdi], 0
    cmp qword ptr [rcx+PE_ANSWERS], 2
    je .Lentries_right
    lock inc qword ptr [rip+wrong_count]
.Lentries_right:
    inc r13d
    cmp r13d, QUEUES
    jb .Lentries_off
    xor eax, eax
    add rsp, QUEUES*PE_BYTES
    pop r13
    pop r12
    pop rbx
    ret

# rdi = &queue r13's head. Changes nothing else.
poll_queue:
    lea rdi, [rip+poll_heads]
    lea rdi, [rdi+r13*8]
    ret

# u64 poll_walk(u64 round)
# B.
poll_walk:
    push rbx
    mov rbx, rdi
    lea rdi, [rip+hung]
    lea rsi, [rbx+1]
    call gate_spin
    call poll_answer
    lea rdi, [rip+walked]
    call gate_raise
    call poll_answer                    # A falls asleep meanwhile
    lea rdi, [rip+poll_lock]
    call spin_lock_irq
    push rax
    inc qword ptr [rip+poll_done]
    mov rcx, [rip+poll_heads+8*QUEUES-8]
    mov rdi, [rcx+WE_THREAD]
    cmp rdi, [rip+polling_thread]
    jne .Lwalk_lost
    call wake
    pop rsi
    lea rdi, [rip+poll_lock]
    call spin_unlock_irq
    lea rdi, [rip+.Levent_woken]
    call event
    lea rdi, [rip+round_count]
    lea rsi, [rbx+1]
    call wait_for
    xor eax, eax
    pop rbx
    ret
.Lwalk_lost:
    lea rdi, [rip+.Lpoll_text_lost]
    jmp fail

# Read every entry of round rbx, and write an answer into it.
poll_answer:
    push r13
    movabs r8, MAGIC
    mov rax, rbx
    shl rax, 8
    add r8, rax
    xor r13d, r13d
.Lanswer_next:
    call poll_queue
    mov rcx, [rdi]
    cmp r8, [rcx+PE_MAGIC]              # the accesses in question
    je .Lanswer_right
    lock inc qword ptr [rip+wrong_count]
.Lanswer_right:
    inc qword ptr [rcx+PE_ANSWERS]
    inc r8
    inc r13d
    cmp r13d, QUEUES
    jb .Lanswer_next
    pop r13
    ret

.section .rodata
scenario_name:
    .asciz "poll"
.Levent_hung:
    .asciz "hung"
.Levent_woken:
    .asciz "woken"
.Lpoll_text_lost:
    .asciz ": an entry names another thread than the one that polls\n"
.p2align 3
scenario_threads:
    .quad user_rounds, B_ROUNDS, 1
    .quad user_rounds, A_ROUNDS, 0
    .quad 0
scenario_calls:
    .quad hog_dive
    .quad poll_poll
    .quad poll_walk
    .quad call_hog
    .quad call_nothing
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
poll_heads:                             # QUEUES * 8
    .zero 128
poll_lock:
    .zero 8
poll_done:                              # rounds in which B has woken A
    .zero 8
polling_thread:
    .zero 8
hung:
    .zero GATE_BYTES
walked:
    .zero GATE_BYTES
