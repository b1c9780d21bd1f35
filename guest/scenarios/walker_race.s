# Another CPU's page walk sets Accessed while a policy looks at it.
#
# A policy that takes back the pages whose Accessed bit is clear reads the entry first and clears it
# then. If another CPU walks to the page in between, its walk sets the bit, and its TLB holds the page:
# a plain store overwrites that, a compare-and-exchange sees it. Each round starts a fresh thread X
# (CPU 0), whose lower pages nobody has touched; X goes to sleep with a shallow stack, and B (CPU 1)
# reads X's lower pages once, a little later in each round, so that over the rounds its walk falls
# anywhere into X's switch-out. X wakes, which may give it other frames, and B reads once more. What B
# reads has no meaning; a page that is not mapped is a #PF, which is caught.
#
#   CPU 0  X: sleep, switch-out: read entry, clear it, free | X: awake ........... exit
#   CPU 1  B: ..(a little longer each round).. read                     read

.equ SYS_WATCH,     64                  # watch(round)
.equ B_ROUNDS,      0x4018              # 24
.equ ROUNDS,        24
.equ DELAY,         20                  # turns of three instructions longer each round

.text
# u64 race_victim(u64)
# X, a kernel thread.
race_victim:
    push rbx
    mov rbx, [rip+round_count]
    inc rbx
    CURRENT
    mov [rip+victim], rax
    lea rdi, [rip+began]
    call gate_raise
    lea rdi, [rip+read_once]
    mov rsi, rbx
    call gate_sleep
    lea rdi, [rip+awake]
    call gate_raise
    lea rdi, [rip+read_twice]
    mov rsi, rbx
    call gate_spin
    xor eax, eax
    pop rbx
    ret

# u64 race_watch(u64 round)
# B.
race_watch:
    push rbx
    push r12
    mov rbx, rdi
    lea r12, [rdi+1]
    lea rdi, [rip+began]
    mov rsi, r12
    call gate_spin
    imul ecx, ebx, DELAY
    inc ecx
.Lwatch_later:
    pause
    dec ecx
    jnz .Lwatch_later
    call race_read
    lea rdi, [rip+read_once]
    call gate_raise
    lea rdi, [rip+awake]
    mov rsi, r12
    call gate_spin
    call race_read
    lea rdi, [rip+read_twice]
    call gate_raise
    xor eax, eax
    pop r12
    pop rbx
    ret

# Read the three lower pages of the victim's stack, from the top down.
race_read:
    push rbx
    push r12
    mov rax, [rip+victim]
    mov rbx, [rax+T_STACK]
    mov r12d, 3
.Lread_page:
    dec r12d
    mov rsi, r12
    shl rsi, 12                         # PAGE_SIZE
    add rsi, rbx
    lea rdi, [rip+race_word]
    call try_call
    test r12d, r12d
    jnz .Lread_page
    pop r12
    pop rbx
    ret
# void race_word(u64 page)
race_word:
    mov rax, [rdi+PAGE_SIZE/2]          # the access in question
    ret

# u64 race_conduct(void)
race_conduct:
    push rbx
    xor ebx, ebx
.Lconduct_next:
    lea rdi, [rip+race_victim]
    xor esi, esi
    xor edx, edx
    xor ecx, ecx
    call thread_create
    mov rdi, rax
    call thread_join
    or rbx, rax
    inc qword ptr [rip+round_count]
    cmp qword ptr [rip+round_count], ROUNDS
    jb .Lconduct_next
    mov rax, rbx
    pop rbx
    ret

.section .rodata
scenario_name:
    .asciz "walker-race"
.p2align 3
scenario_threads:
    .quad user_rounds, B_ROUNDS, 1
    .quad 0
scenario_calls:
    .quad race_watch
    .quad 0
.data
.p2align 3
scenario_conductor:
    .quad race_conduct
scenario_tick:
    .long 0
.p2align 3
scenario_pool:
    .quad POOL_PAGES
.bss
.p2align 3
victim:                                 # the thread of this round
    .zero 8
began:                                  # rounds whose victim runs
    .zero GATE_BYTES
read_once:
    .zero GATE_BYTES
awake:
    .zero GATE_BYTES
read_twice:
    .zero GATE_BYTES
