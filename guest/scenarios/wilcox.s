# Wilcox's objection: a mutex_waiter and a list item on a stack, both reached from another CPU.
#
# Each round A (CPU 0) goes deep, puts an item on its stack and publishes it; B (CPU 1) reads the
# item and *writes* its answer into it, through whatever translation CPU 1 has. A finds the answer or
# not. Deeper still, A then blocks on a mutex that B holds: A's waiter is an entry on its stack, which
# B reads and unlinks when it unlocks. Then A returns to ring 3 and gives the CPU up, so the pages
# may go, and a thread that sleeps deep (the hog) may get their frames.
#
#   CPU 0  A: publish ...... check | block ...... | return, yield | hog | A: publish ...
#   CPU 1  B:         answer               unlock                                    answer
#
# B looks at the waiter before it unlocks: a waiter that is not A's would otherwise crash the guest.

.equ SYS_SHARE,     65                  # share(round)
.equ SYS_SERVE,     66                  # serve(round)
.equ SYS_REST,      67
.equ SYS_NOTHING,   68
.equ A_ROUNDS,      0x44434103          # three of share, rest, nothing
.equ B_ROUNDS,      0x4203
.equ MAGIC,         0x57494c434f580000  # "WILCOX"; plus the round
.equ ANSWER,        0x100               # what B adds
.equ OUTER_FRAMES,  5                   # of 1 KiB: the item is about 5.5 KiB deep
.equ INNER_FRAMES,  6                   # the waiter about 12.4 KiB

# struct item, on A's stack
.equ IT_MAGIC,      0
.equ IT_ANSWER,     8

.text
# u64 wilcox_share(u64 round)
# A.
wilcox_share:
    push rdi
    mov edi, (OUTER_FRAMES+INNER_FRAMES+2)*1024
    call stack_request
    pop rdi
    test rax, rax
    jz .Lshare_refused
    mov esi, OUTER_FRAMES
    lea rdx, [rip+wilcox_outer]
    call deep
    inc qword ptr [rip+round_count]
    ret
.Lshare_refused:
    mov eax, 1
    ret

# The item lives in this frame.
wilcox_outer:
    push rbx
    sub rsp, 16
    mov rbx, rdi
    movabs rax, MAGIC
    add rax, rbx
    mov [rsp+IT_MAGIC], rax
    mov qword ptr [rsp+IT_ANSWER], 0
    call share_stack
    mov [rip+item], rsp
    lea rdi, [rip+shared]
    call gate_raise
    lea rdi, [rip+.Levent_published]    # marked when all is done: a script may stop A here
    call event
    lea rdi, [rip+answered]
    lea rsi, [rbx+1]
    call gate_spin
    movabs rax, MAGIC+ANSWER
    add rax, rbx
    cmp rax, [rsp+IT_ANSWER]            # B's write is here, or went elsewhere
    je .Louter_right
    lock inc qword ptr [rip+wrong_count]
.Louter_right:
    mov esi, INNER_FRAMES
    lea rdx, [rip+wilcox_inner]
    call deep
    add rsp, 16
    pop rbx
    ret

# The waiter lives in mutex_lock's frames, below this one.
wilcox_inner:
    CURRENT
    mov [rip+waiting_thread], rax
    lea rdi, [rip+door]
    call mutex_lock
    lea rdi, [rip+door]
    call mutex_unlock
    xor eax, eax
    ret

# u64 wilcox_serve(u64 round)
# B.
wilcox_serve:
    push rbx
    mov rbx, rdi
    lea rdi, [rip+shared]
    lea rsi, [rbx+1]
    call gate_spin
    mov rcx, [rip+item]
    mov rax, [rcx+IT_MAGIC]             # the accesses in question
    add rax, ANSWER
    mov [rcx+IT_ANSWER], rax
    movabs rdx, MAGIC+ANSWER
    add rdx, rbx
    cmp rax, rdx
    je .Lserve_right
    lock inc qword ptr [rip+wrong_count]
.Lserve_right:
    lea rdi, [rip+door]                 # before A tries to
    call mutex_lock
    lea rdi, [rip+answered]
    call gate_raise
    lea rdi, [rip+.Levent_answered]
    call event
    lea rdi, [rip+door+WQ_HEAD]         # until A is queued
    mov esi, 1
    call wait_for
    mov rcx, [rip+door+WQ_HEAD]
    mov rax, [rcx+WE_THREAD]
    cmp rax, [rip+waiting_thread]
    jne .Lserve_lost
    lea rdi, [rip+door]
    call mutex_unlock
    lea rdi, [rip+.Levent_unlocked]
    call event
    lea rdi, [rip+round_count]          # A got it
    lea rsi, [rbx+1]
    call wait_for
    xor eax, eax
    pop rbx
    ret
.Lserve_lost:
    lea rdi, [rip+.Lwilcox_text_lost]
    jmp fail

.section .rodata
scenario_name:
    .asciz "wilcox"
.Levent_published:
    .asciz "published"
.Levent_answered:
    .asciz "answered"
.Levent_unlocked:
    .asciz "unlocked"
.Lwilcox_text_lost:
    .asciz ": CPU 1 found another waiter than the one that waits\n"
.p2align 3
scenario_threads:
    .quad user_rounds, B_ROUNDS, 1
    .quad user_rounds, A_ROUNDS, 0
    .quad 0
scenario_calls:
    .quad hog_dive
    .quad wilcox_share
    .quad wilcox_serve
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
item:                                   # address of the item on A's stack
    .zero 8
waiting_thread:
    .zero 8
door:                                   # the mutex that A waits for
    .zero MX_BYTES
shared:                                 # rounds that A has published
    .zero GATE_BYTES
answered:                               # rounds that B has answered
    .zero GATE_BYTES
