# Timer ticks while stacks shrink and grow: two threads a CPU go deep and give way to each other, with a tick so
# short that many come in the middle of a switch, where the policy's hook runs with interrupts on.

.equ SYS_GROW,      64                  # grow(round)
.equ PAIR_ROUNDS,   0x400c              # twelve of grow
.equ DEPTH,         11                  # KiB
.equ CLOCKS,        900                 # bus clocks a tick
.equ MAGIC,         0x5449434b53000000  # "TICKS"; plus the round

.text
# u64 ticks_grow(u64 round)
ticks_grow:
    mov esi, DEPTH
    lea rdx, [rip+ticks_deep]
    call ask_deep
    push rax
    call schedule
    lock inc qword ptr [rip+round_count]
    pop rax
    ret
ticks_deep:
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

.section .rodata
scenario_name:
    .asciz "ticks"
.p2align 3
scenario_threads:
    .quad user_rounds, PAIR_ROUNDS, 0
    .quad user_rounds, PAIR_ROUNDS, 1
    .quad user_rounds, PAIR_ROUNDS, 0
    .quad user_rounds, PAIR_ROUNDS, 1
    .quad 0
scenario_calls:
    .quad ticks_grow
    .quad 0
.data
.p2align 3
scenario_conductor:
    .quad 0
scenario_tick:
    .long CLOCKS
.p2align 3
scenario_pool:
    .quad POOL_PAGES
