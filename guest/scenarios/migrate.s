# A thread goes deep, shares, and migrates while the other CPU reads its stack.
#
# Each round A publishes an item deep in its stack on CPU 0; B on CPU 1 reads it. Without coming up, A
# moves to CPU 1, changes the item there, and D on CPU 0 reads it. A returns to ring 3 on CPU 1 (a
# policy gives the pages to that CPU) and goes back to CPU 0, where it gets others. So each CPU has
# read, and A has used, the same addresses in other frames before; CPU 0 may even hold what A itself
# used there a round ago.
#
#   CPU 0  A: publish ..... move |                 D: read |  A: return, back
#   CPU 1           B: read      | A: change, publish .....|

.equ SYS_SHARE,     65                  # share(round)
.equ SYS_READ_ONE,  66                  # read_one(round)
.equ SYS_READ_TWO,  67                  # read_two(round)
.equ SYS_HOME,      68
.equ SYS_REST,      69
.equ SYS_NOTHING,   70
.equ A_ROUNDS,      0x464645444104      # four of share, home, rest, nothing, nothing
.equ B_ROUNDS,      0x4204
.equ D_ROUNDS,      0x4304
.equ MAGIC,         0x4d49475241544500  # "MIGRATE"; plus the round, plus 128 on CPU 1
.equ DEPTH,         5                   # KiB
.equ ON_ONE,        128

.text
# u64 migrate_share(u64 round)
# A.
migrate_share:
    mov esi, DEPTH
    lea rdx, [rip+migrate_item]
    call ask_deep
    inc qword ptr [rip+round_count]
    ret

# The item lives in this frame.
migrate_item:
    push rbx
    sub rsp, 16
    mov rbx, rdi
    movabs rax, MAGIC
    add rax, rbx
    mov [rsp], rax
    call share_stack
    mov [rip+item], rsp
    lea rdi, [rip+shared_zero]
    call gate_raise
    lea rdi, [rip+.Levent_published]
    call event
    lea rdi, [rip+read_by_one]
    lea rsi, [rbx+1]
    call gate_spin
    mov edi, 1
    call set_cpu
    movabs rax, MAGIC
    add rax, rbx
    cmp rax, [rsp]                      # the item came along
    je .Litem_right
    lock inc qword ptr [rip+wrong_count]
.Litem_right:
    add qword ptr [rsp], ON_ONE
    lea rdi, [rip+shared_one]
    call gate_raise
    lea rdi, [rip+.Levent_moved]
    call event
    lea rdi, [rip+read_by_zero]
    lea rsi, [rbx+1]
    call gate_spin
    xor eax, eax
    add rsp, 16
    pop rbx
    ret

# u64 migrate_read_one(u64 round): B on CPU 1
migrate_read_one:
    push rbx
    mov rbx, rdi
    lea rdi, [rip+shared_zero]
    lea rsi, [rbx+1]
    call gate_spin
    movabs rdx, MAGIC
    add rdx, rbx
    call migrate_compare
    lea rdi, [rip+read_by_one]
    call gate_raise
    lea rdi, [rip+.Levent_read]
    call event
    xor eax, eax
    pop rbx
    ret

# u64 migrate_read_two(u64 round): D on CPU 0
migrate_read_two:
    push rbx
    mov rbx, rdi
    lea rdi, [rip+shared_one]
    lea rsi, [rbx+1]
    call gate_sleep                     # A needs the CPU
    movabs rdx, MAGIC+ON_ONE
    add rdx, rbx
    call migrate_compare
    lea rdi, [rip+read_by_zero]
    call gate_raise
    lea rdi, [rip+.Levent_read]
    call event
    xor eax, eax
    pop rbx
    ret

# Compare the item with rdx.
migrate_compare:
    mov rcx, [rip+item]
    cmp rdx, [rcx]                      # the access in question
    je .Lcompare_right
    lock inc qword ptr [rip+wrong_count]
.Lcompare_right:
    ret

# u64 migrate_home(void)
# A, back to CPU 0 with a shallow stack.
migrate_home:
    xor edi, edi
    call set_cpu
    xor eax, eax
    ret

.section .rodata
scenario_name:
    .asciz "migrate"
.Levent_published:
    .asciz "published"
.Levent_moved:
    .asciz "moved"
.Levent_read:
    .asciz "read"
.p2align 3
scenario_threads:
    .quad user_rounds, B_ROUNDS, 1
    .quad user_rounds, A_ROUNDS, 0
    .quad user_rounds, D_ROUNDS, 0
    .quad 0
scenario_calls:
    .quad hog_dive
    .quad migrate_share
    .quad migrate_read_one
    .quad migrate_read_two
    .quad migrate_home
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
shared_zero:                            # rounds published from CPU 0
    .zero GATE_BYTES
shared_one:                             # rounds published from CPU 1
    .zero GATE_BYTES
read_by_one:
    .zero GATE_BYTES
read_by_zero:
    .zero GATE_BYTES
