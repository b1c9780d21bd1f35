# Memory pressure on one CPU races the wake-up of a sleeping thread on the other.
#
# A (CPU 0) goes deep, comes half up, and sleeps there: below its stack pointer lie pages it has used
# and will use again. B (CPU 1) waits until A is asleep and off its CPU, then wakes it and asks for
# memory at once; every second round in the other order. A goes deep again as soon as it runs, and
# checks what it writes there.

.equ SYS_SLEEP,     64                  # sleep(round)
.equ SYS_PRESS,     65                  # press(round)
.equ A_ROUNDS,      0x4008              # eight
.equ B_ROUNDS,      0x4108
.equ HALF,          5                   # KiB
.equ REST,          6
.equ WANTED,        16                  # pages
.equ MAGIC,         0x5052455353000000  # "PRESS"; plus the round

.text
# u64 pressure_sleep(u64 round)
# A.
pressure_sleep:
    push rdi
    mov edi, (HALF+REST+2)*1024
    call stack_request
    pop rdi
    test rax, rax
    jz .Lsleep_refused
    mov esi, HALF
    lea rdx, [rip+pressure_half]
    call deep
    inc qword ptr [rip+round_count]
    ret
.Lsleep_refused:
    mov eax, 1
    ret
pressure_half:
    push rbx
    mov rbx, rdi
    mov esi, REST
    lea rdx, [rip+pressure_bottom]
    call deep
    CURRENT
    mov [rip+sleeping_thread], rax
    lea rdi, [rip+asleep]
    call gate_raise
    lea rdi, [rip+wake_up]
    lea rsi, [rbx+1]
    call gate_sleep
    mov rdi, rbx
    mov esi, REST
    lea rdx, [rip+pressure_bottom]
    call deep
    xor eax, eax
    pop rbx
    ret
# The last KiB: write it, then read it.
pressure_bottom:
    sub rsp, 1024
    movabs rax, MAGIC
    add rax, rdi
    xor ecx, ecx
.Lbottom_write:
    mov [rsp+rcx*8], rax
    add ecx, 16
    cmp ecx, 128
    jb .Lbottom_write
.Lbottom_read:
    sub ecx, 16
    cmp rax, [rsp+rcx*8]
    je .Lbottom_right
    lock inc qword ptr [rip+wrong_count]
.Lbottom_right:
    test ecx, ecx
    jnz .Lbottom_read
    xor eax, eax
    add rsp, 1024
    ret

# u64 pressure_press(u64 round)
# B.
pressure_press:
    push rbx
    mov rbx, rdi
    lea rdi, [rip+asleep]
    lea rsi, [rbx+1]
    call gate_spin
    mov rdx, [rip+sleeping_thread]
    mov ecx, SPIN_BOUND
.Lpress_wait:
    cmp qword ptr [rdx+T_STATE], STATE_SLEEPING
    jne .Lpress_again
    cmp qword ptr [rdx+T_ON_CPU], 0
    je .Lpress_asleep
.Lpress_again:
    pause
    dec ecx
    jnz .Lpress_wait
    jmp give_up
.Lpress_asleep:
    lea rdi, [rip+.Levent_asleep]
    call event
    test ebx, 1
    jnz .Lpress_first
    lea rdi, [rip+wake_up]
    call gate_raise
    mov edi, WANTED
    call memory_pressure
    jmp .Lpress_both
.Lpress_first:
    mov edi, WANTED
    call memory_pressure
    lea rdi, [rip+wake_up]
    call gate_raise
.Lpress_both:
    lea rdi, [rip+round_count]
    lea rsi, [rbx+1]
    call wait_for
    xor eax, eax
    pop rbx
    ret

.section .rodata
scenario_name:
    .asciz "pressure"
.Levent_asleep:
    .asciz "asleep"
.p2align 3
scenario_threads:
    .quad user_rounds, B_ROUNDS, 1
    .quad user_rounds, A_ROUNDS, 0
    .quad 0
scenario_calls:
    .quad pressure_sleep
    .quad pressure_press
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
sleeping_thread:
    .zero 8
asleep:
    .zero GATE_BYTES
wake_up:
    .zero GATE_BYTES
