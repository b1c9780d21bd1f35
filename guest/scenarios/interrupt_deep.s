# A timer interrupt and an NMI on a nearly full stack, and right above a page boundary.
#
# A (CPU 0) puts its stack pointer 320 bytes above the bottom of its stack, or just above a page boundary
# so that an interrupt's frame is the first to touch the page below, and waits there for two ticks of
# its timer and for an NMI that B (CPU 1) sends. The interrupt's frame is pushed on A's stack: 192 bytes
# with all registers. The NMI has a stack of its own. Preemption is off: the scheduler would not fit.

.equ SYS_WAIT,      64                  # wait(round)
.equ SYS_NMI,       65                  # nmi(round)
.equ ROUNDS,        5
.equ A_ROUNDS,      0x4005
.equ B_ROUNDS,      0x4105
.equ CLOCKS,        3000                # bus clocks a tick

.text
# u64 interrupt_wait(u64 round)
# A.
interrupt_wait:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    mov rbx, rdi
    CURRENT
    mov r12, rax
    mov rdi, rsp                        # everything that is left, less what the request itself needs
    sub rdi, [r12+T_STACK]
    sub rdi, 128
    call stack_request
    test rax, rax
    jz .Lwait_refused
    call preempt_disable
    mov edi, CLOCKS
    call timer_start
    THIS_CPU
    mov r13, [rax+CPU_TICKS]
    add r13, 2
    mov r14, rax
    lea rcx, [rip+interrupt_places]
    mov rdx, [rcx+rbx*8]
    add rdx, [r12+T_STACK]
    lea rsi, [rbx+1]
    mov rbp, rsp
    mov rsp, rdx
    mov [rip+in_place], rsi             # B may send its NMI
    mov ecx, SPIN_BOUND
.Lwait_here:
    cmp [r14+CPU_TICKS], r13
    jb .Lwait_more
    cmp [r14+CPU_NMIS], rsi
    jae .Lwait_done
.Lwait_more:
    pause
    dec ecx
    jnz .Lwait_here
    mov rsp, rbp
    jmp give_up
.Lwait_done:
    mov rsp, rbp
    xor edi, edi
    call timer_start
    call preempt_enable
    inc qword ptr [rip+round_count]
    xor eax, eax
    jmp .Lwait_end
.Lwait_refused:
    mov eax, 1
.Lwait_end:
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

# u64 interrupt_nmi(u64 round)
# B.
interrupt_nmi:
    push rbx
    mov rbx, rdi
    lea rdi, [rip+in_place]
    lea rsi, [rbx+1]
    call wait_for
    xor edi, edi
    mov esi, ICR_NMI
    call send_ipi
    lea rdi, [rip+round_count]
    lea rsi, [rbx+1]
    call wait_for
    xor eax, eax
    pop rbx
    ret

.section .rodata
scenario_name:
    .asciz "interrupt-deep"
.p2align 3
scenario_threads:
    .quad user_rounds, B_ROUNDS, 1
    .quad user_rounds, A_ROUNDS, 0
    .quad 0
scenario_calls:
    .quad interrupt_wait
    .quad interrupt_nmi
    .quad 0
interrupt_places:                       # bytes above the stack's bottom, one a round
    .quad 12304, 8208, 4112, 4096, 320
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
in_place:                               # rounds in which A has put its stack pointer
    .zero 8
