# Two threads that each want three more pages around one switch.
#
# B is asleep in the kernel with a shallow stack. A enters, goes 11 KiB deep, wakes B and gives the CPU up
# with its stack pointer right above the next page, so that the switch itself is what touches that page:
# after schedule() has looked after the pool, before the other stack. B goes 13 KiB deep as soon as it
# runs, having entered the kernel long before: three more pages, with nothing between the two but the
# switch. A pool of three pages that is filled up at the wrong moment has run out. Then B wakes A, both
# come up, and it starts again.

.equ SYS_FIRST,     64                  # first(round): A
.equ SYS_SECOND,    65                  # second(round): B
.equ A_ROUNDS,      0x4004
.equ B_ROUNDS,      0x4104
.equ DEPTH,         11                  # KiB: A, three pages
.equ DEPTH_B,       13                  # KiB: B, four pages
.equ SWITCH_GAP,    56                  # from the stack pointer at a call of schedule(): the switch crosses here

.text
# u64 twice_first(u64 round)
twice_first:
    push rbx
    mov rbx, rdi
    lea rdi, [rip+waiting]              # B is asleep, or about to be
    lea rsi, [rbx+1]
    call gate_sleep
    mov rdi, rbx
    mov esi, DEPTH
    lea rdx, [rip+twice_first_deep]
    call ask_deep
    inc qword ptr [rip+round_count]
    pop rbx
    ret
twice_first_deep:
    push rdi
    push rbp
    lea rdi, [rip+first_deep]
    call gate_raise
    mov rbp, rsp
    CURRENT
    mov rax, [rax+T_TOP]
    lea rsp, [rax+SWITCH_GAP-12288]     # 3 * PAGE_SIZE
    call schedule
    mov rsp, rbp
    pop rbp
    pop rsi
    inc rsi
    lea rdi, [rip+second_deep]
    call gate_sleep
    xor eax, eax
    ret

# u64 twice_second(u64 round)
twice_second:
    push rbx
    mov rbx, rdi
    lea rdi, [rip+waiting]
    call gate_raise
    lea rdi, [rip+first_deep]
    lea rsi, [rbx+1]
    call gate_sleep
    mov rdi, rbx
    mov esi, DEPTH_B
    lea rdx, [rip+twice_second_deep]
    pop rbx
    jmp ask_deep
twice_second_deep:
    lea rdi, [rip+second_deep]
    call gate_raise
    call schedule                       # A goes on while this one is deep
    xor eax, eax
    ret

.section .rodata
scenario_name:
    .asciz "two-faults"
.p2align 3
scenario_threads:
    .quad user_rounds, B_ROUNDS, 0
    .quad user_rounds, A_ROUNDS, 0
    .quad 0
scenario_calls:
    .quad twice_first
    .quad twice_second
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
waiting:                                # rounds that B has begun
    .zero GATE_BYTES
first_deep:                             # rounds in which A is deep
    .zero GATE_BYTES
second_deep:                            # rounds in which B is
    .zero GATE_BYTES
