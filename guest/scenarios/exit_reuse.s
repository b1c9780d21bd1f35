# A thread exits, and the next one gets its stack slot.
#
# X (CPU 0) goes deep, publishes an item, and B (CPU 1) reads it; X exits right there, without coming
# up. Y is created on the same slot: the same addresses, by policy other frames. Y first looks through
# its fresh stack below its stack pointer for words that X left (a data leak: printed, not judged
# here), then publishes an item at the address of X's, and B reads that. Three threads in a row.

.equ ROUNDS,        3
.equ SYS_LIVE,      64                  # live(round)
.equ SYS_WATCH,     65                  # watch(round)
.equ B_ROUNDS,      0x4103
.equ DEPTH,         6                   # KiB
.equ LEFT_WORDS,    100                 # how often each thread leaves its secret
.equ MAGIC,         0x4558495400000000  # "EXIT"; plus the round
.equ SECRET,        0x5345435245540000  # "SECRET"

.text
# u64 reuse_live(u64 round)
# X, Y, Z. Exits from the deep call.
reuse_live:
    push rbx
    mov rbx, rdi
    mov edi, STACK_BYTES-1024
    call stack_request
    test rax, rax
    jz .Llive_refused
    mov rdi, rsp                        # words of another thread's, from the stack pointer down
    and rdi, -8
    CURRENT
    mov rsi, [rax+T_STACK]
    add rsi, 1024                       # what was not asked for
    movabs rdx, SECRET
    xor ecx, ecx
.Llive_look:
    sub rdi, 8
    cmp rdi, rsi
    jb .Llive_looked
    cmp rdx, [rdi]
    jne .Llive_look
    inc ecx
    jmp .Llive_look
.Llive_looked:
    add [rip+left_count], rcx
    mov rdi, rbx
    mov esi, DEPTH
    lea rdx, [rip+reuse_item]
    pop rbx
    jmp deep
.Llive_refused:
    mov eax, 1
    pop rbx
    ret

# The item lives in this frame, with the secret below it.
reuse_item:
    sub rsp, LEFT_WORDS*8+16
    mov rbx, rdi
    movabs rax, SECRET
    mov rdi, rsp
    mov ecx, LEFT_WORDS
    rep stosq
    movabs rax, MAGIC
    add rax, rbx
    mov [rsp+LEFT_WORDS*8], rax
    lea rax, [rsp+LEFT_WORDS*8]
    mov rcx, [rip+item]
    call share_stack
    mov [rip+item], rax
    test rcx, rcx
    jz .Litem_first
    cmp rcx, rax                        # another address would make the scenario pointless
    jne .Litem_moved
.Litem_first:
    lea rdi, [rip+shared]
    call gate_raise
    lea rdi, [rip+.Levent_published]
    call event
    lea rdi, [rip+watched]
    lea rsi, [rbx+1]
    call gate_spin
    inc qword ptr [rip+round_count]
    lea rdi, [rip+.Levent_exits]
    call event
    xor edi, edi
    jmp thread_exit
.Litem_moved:
    lea rdi, [rip+.Lreuse_text_moved]
    jmp fail

# u64 reuse_watch(u64 round)
# B.
reuse_watch:
    push rbx
    mov rbx, rdi
    lea rdi, [rip+shared]
    lea rsi, [rbx+1]
    call gate_spin
    movabs rax, MAGIC
    add rax, rbx
    mov rcx, [rip+item]
    cmp rax, [rcx]                      # the access in question
    je .Lwatch_right
    lock inc qword ptr [rip+wrong_count]
.Lwatch_right:
    lea rdi, [rip+watched]
    call gate_raise
    lea rdi, [rip+.Levent_read]
    call event
    xor eax, eax
    pop rbx
    ret

# u64 reuse_conduct(void)
# One thread after the other, on one slot.
reuse_conduct:
    push rbx
    push r12
    xor ebx, ebx
    xor r12d, r12d
.Lconduct_next:
    lea rdi, [rip+reuse_user]
    mov rsi, rbx
    xor edx, edx
    call start_user
    mov rdi, rax
    call thread_join
    or r12, rax
    inc ebx
    cmp ebx, ROUNDS
    jb .Lconduct_next
    lea rdi, [rip+.Lreuse_text_left]
    call say
    mov rdi, [rip+left_count]
    call print_dec
    lea rdi, [rip+.Lreuse_text_newline]
    call print
    mov rax, r12
    pop r12
    pop rbx
    ret

# ---- ring 3
.p2align 12, 0x90
reuse_user:                         # rdi = round: one call
    mov eax, SYS_LIVE
    syscall
    mov rdi, rax
    mov eax, SYS_EXIT
    syscall
.p2align 12, 0x90

.section .rodata
scenario_name:
    .asciz "exit-reuse"
.Levent_published:
    .asciz "published"
.Levent_read:
    .asciz "read"
.Levent_exits:
    .asciz "exits"
.Lreuse_text_moved:
    .asciz ": the item's address changed\n"
.Lreuse_text_left:
    .asciz ": words of earlier threads "
.Lreuse_text_newline:
    .asciz "\n"
.p2align 3
scenario_threads:
    .quad user_rounds, B_ROUNDS, 1
    .quad 0
scenario_calls:
    .quad reuse_live
    .quad reuse_watch
    .quad 0
.data
.p2align 3
scenario_conductor:
    .quad reuse_conduct
scenario_tick:
    .long 0
.p2align 3
scenario_pool:
    .quad POOL_PAGES
.bss
.p2align 3
item:                                   # where the first item was
    .zero 8
left_count:                             # words of another thread's that were found
    .zero 8
shared:
    .zero GATE_BYTES
watched:
    .zero GATE_BYTES
