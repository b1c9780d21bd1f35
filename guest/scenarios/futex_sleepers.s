# Many threads asleep in a system call.
#
# 48 processes on two CPUs, as many as the stack slots allow with some to spare: each goes 6 KiB deep
# once, as a thread that has done something before, and then sleeps with a shallow stack in a futex
# call. When all sleep, CPU 0 wakes them, and each goes deep once more. What a policy saves shows here,
# and so does what a wake-up of many costs.

.equ SYS_FUTEX,     64                  # futex()
.equ PROGRAM,       0x4001
.equ THREADS,       48
.equ DEPTH,         5                   # KiB

.text
# u64 futex_sleep(void)
futex_sleep:
    call futex_dive
    lea rdi, [rip+sleepers]
    call gate_raise
    lea rdi, [rip+wake_up]
    mov esi, 1
    call gate_sleep
    call futex_dive
    lock inc qword ptr [rip+round_count]
    xor eax, eax
    ret
futex_dive:
    CURRENT
    mov rdi, [rax+T_ID]
    mov esi, DEPTH
    lea rdx, [rip+futex_bottom]
    jmp ask_deep
futex_bottom:
    push rdi
    call schedule                       # the others come by
    pop rdi
    CURRENT
    cmp rdi, [rax+T_ID]
    je .Lbottom_right
    lock inc qword ptr [rip+wrong_count]
.Lbottom_right:
    xor eax, eax
    ret

# u64 futex_conduct(void)
futex_conduct:
    push rbx
    push r12
    xor ebx, ebx
.Lconduct_start:
    lea rdi, [rip+user_rounds]
    mov esi, PROGRAM
    mov edx, ebx
    and edx, 1
    call start_user
    test rax, rax
    jz .Lconduct_none
    lea rcx, [rip+futex_threads]
    mov [rcx+rbx*8], rax
    inc ebx
    cmp ebx, THREADS
    jb .Lconduct_start
    lea rdi, [rip+sleepers]
    mov rsi, rbx
    call gate_sleep
    lea rdi, [rip+.Levent_asleep]
    call event
    lea rdi, [rip+wake_up]
    call gate_raise
    xor r12d, r12d
.Lconduct_join:
    dec ebx
    lea rcx, [rip+futex_threads]
    mov rdi, [rcx+rbx*8]
    call thread_join
    or r12, rax
    test ebx, ebx
    jnz .Lconduct_join
    mov rax, r12
    pop r12
    pop rbx
    ret
.Lconduct_none:
    lea rdi, [rip+.Lfutex_text_none]
    jmp fail

.section .rodata
scenario_name:
    .asciz "futex-sleepers"
.Levent_asleep:
    .asciz "asleep"
.Lfutex_text_none:
    .asciz ": no memory for a thread\n"
.p2align 3
scenario_threads:
    .quad 0
scenario_calls:
    .quad futex_sleep
    .quad 0
.data
.p2align 3
scenario_conductor:
    .quad futex_conduct
scenario_tick:
    .long 0
.p2align 3
scenario_pool:
    .quad POOL_PAGES
.bss
.p2align 3
sleepers:
    .zero GATE_BYTES
wake_up:
    .zero GATE_BYTES
futex_threads:                          # THREADS * 8
    .zero 384
