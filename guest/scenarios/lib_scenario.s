# The frame of a scenario: threads and system calls by tables, gates, bounded waits, deep calls.
#
# A scenario that links this provides
#   char scenario_name[]            its id
#   {u64 user entry, argument, cpu} scenario_threads[], ends with 0: processes started in this order
#   u64 (*scenario_calls[])(u64, u64), ends with 0: what system calls SYS_SCENARIO, +1, .. run
#   u64 (*scenario_conductor)(void), or 0: runs in the main thread when all have been started
#   u32 scenario_tick, u64 scenario_pool   as main.s says
# and counts what its own check finds wrong in wrong_count, and its rounds in round_count. It passes
# if nothing was wrong and all threads and the conductor returned 0.
#
# No wait is for ever: who spins gives up in the end, and every sleeper has somebody who spins for
# what the sleeper does next.

.equ SPIN_BOUND,    150000              # turns until a wait is given up
.equ FRAME_BYTES,   1024                # stack of one frame of deep()
.equ MAX_STARTED,   64
.equ SYS_HOG,       64                  # hog_dive, the first of scenario_calls if call_hog is used

# struct gate: a counter with a wait queue
.equ GATE_WQ,       0
.equ GATE_COUNT,    24
.equ GATE_BYTES,    32

.text
# u64 scenario_main(void)
scenario_main:
    push rbx
    push r12
    push r13
    lea rax, [rip+scenario_dispatch]
    mov [rip+scenario_syscall], rax
    mov qword ptr [rip+user_rflags], FLAGS_USER_IO
    lea rbx, [rip+scenario_threads]
    xor r12d, r12d
.Lframe_start:
    mov rdi, [rbx]
    test rdi, rdi
    jz .Lframe_started
    mov rsi, [rbx+8]
    mov rdx, [rbx+16]
    cmp rdx, [rip+cpu_count]
    jae .Lframe_alone
    call start_user
    test rax, rax
    jz .Lframe_memory
    lea rcx, [rip+started]
    mov [rcx+r12*8], rax
    inc r12d
    add rbx, 24
    jmp .Lframe_start
.Lframe_started:
    xor r13d, r13d                      # exit codes, 0 = well
    mov rax, [rip+scenario_conductor]
    test rax, rax
    jz .Lframe_join
    call rax
    mov r13, rax
.Lframe_join:
    lea rbx, [rip+started]
.Lframe_join_next:
    test r12d, r12d
    jz .Lframe_hog
    mov rdi, [rbx]
    call thread_join
    or r13, rax
    add rbx, 8
    dec r12d
    jmp .Lframe_join_next
.Lframe_hog:
    cmp qword ptr [rip+hog_thread], 0
    je .Lframe_report
    lea rdi, [rip+hog_gate]
    call gate_raise
    mov rdi, [rip+hog_thread]
    call thread_join
    or r13, rax
.Lframe_report:
    test r13, r13
    jz .Lframe_rounds
    lea rdi, [rip+.Lframe_text_failed]
    call say
.Lframe_rounds:
    lea rdi, [rip+.Lframe_text_rounds]
    call say
    mov rdi, [rip+round_count]
    call print_dec
    lea rdi, [rip+.Lframe_text_wrong]
    call print
    mov rdi, [rip+wrong_count]
    call print_dec
    lea rdi, [rip+.Lframe_text_newline]
    call print
    mov rax, r13
    or rax, [rip+wrong_count]
    pop r13
    pop r12
    pop rbx
    ret
.Lframe_memory:
    lea rdi, [rip+.Lframe_text_memory]
    jmp .Lframe_never
.Lframe_alone:
    lea rdi, [rip+.Lframe_text_alone]
.Lframe_never:
    call say
    mov eax, 1
    pop r13
    pop r12
    pop rbx
    ret

# void say(const char *text)
# The scenario's name, then the text.
say:
    push rdi
    lea rdi, [rip+scenario_name]
    call print
    pop rdi
    jmp print

# void give_up(void)
# What should have happened long ago has not. Never returns.
give_up:
    lea rdi, [rip+.Lframe_text_late]

# void fail(const char *text)
# Say it and end the run as failed. Never returns.
fail:
    call say
    mov edi, EXIT_FAIL
    jmp shut_down

# struct thread *start_user(void *program, u64 argument, u64 cpu)
# 0 if there is no memory for it.
start_user:
    mov rcx, rdi
    xor edi, edi
    jmp thread_create

# u64 scenario_dispatch(struct trap_frame *frame)
scenario_dispatch:
    mov rax, [rdi+TF_RAX]
    lea rcx, [rip+scenario_calls]
    lea rcx, [rcx+rax*8-SYS_SCENARIO*8]
    mov rax, [rcx]
    mov rsi, [rdi+TF_RSI]
    mov rdi, [rdi+TF_RDI]
    jmp rax

# void wait_for(u64 *counter, u64 value)
# Spin until *counter >= value, interrupts as they are.
wait_for:
    mov ecx, SPIN_BOUND
.Lwait_for_spin:
    cmp [rdi], rsi
    jae .Lwait_for_end
    pause
    dec ecx
    jnz .Lwait_for_spin
    jmp give_up
.Lwait_for_end:
    ret

# void gate_spin(struct gate *gate, u64 value)
# Spin until its count is at least that.
gate_spin:
    add rdi, GATE_COUNT
    jmp wait_for

# void gate_sleep(struct gate *gate, u64 value)
# The same asleep, with a wait-queue entry on this stack. Thread context, interrupts on.
gate_sleep:
    push rbx
    push r12
    push r13
    mov rbx, rdi
    mov r12, rsi
    call spin_lock_irq
    mov r13, rax
.Lgate_check:
    cmp [rbx+GATE_COUNT], r12
    jae .Lgate_open
    mov rdi, rbx
    call wq_sleep
    jmp .Lgate_check
.Lgate_open:
    mov rdi, rbx
    mov rsi, r13
    call spin_unlock_irq
    pop r13
    pop r12
    pop rbx
    ret

# void gate_raise(struct gate *gate)
# Count one more and wake who sleeps there.
gate_raise:
    push rbx
    push r12
    mov rbx, rdi
    call spin_lock_irq
    mov r12, rax
    inc qword ptr [rbx+GATE_COUNT]
    mov rdi, rbx
    call wq_wake_all_locked
    mov rdi, rbx
    mov rsi, r12
    call spin_unlock_irq
    pop r12
    pop rbx
    ret

# u64 deep(u64 argument, u64 frames, u64 (*function)(u64))
# Call it with so many KiB of stack above it, each page touched on the way down, in order.
deep:
    sub rsp, FRAME_BYTES-8
    mov [rsp], rdi                      # touch
    dec rsi
    jz .Ldeep_there
    call deep
    add rsp, FRAME_BYTES-8
    ret
.Ldeep_there:
    call rdx
    add rsp, FRAME_BYTES-8
    ret

# u64 ask_deep(u64 argument, u64 frames, u64 (*function)(u64))
# The same after asking the policy for so much, and 2 KiB for what the function does. -1 if refused.
ask_deep:
    push rdi
    push rsi
    push rdx
    lea rdi, [rsi+2]
    shl rdi, 10                         # FRAME_BYTES
    call stack_request
    pop rdx
    pop rsi
    pop rdi
    test rax, rax
    jnz deep
    mov rax, -1
    ret

# u64 call_hog(void)
# A system call: the first time, start a thread on this CPU that goes deep and sleeps there to the
# end of the run, so that frames freed by now find another owner; each time, give the CPU up.
call_hog:
    cmp qword ptr [rip+hog_thread], 0
    jne .Lhog_run
    THIS_CPU
    mov rdx, [rax+CPU_ID]
    xor esi, esi
    lea rdi, [rip+hog_user]
    call start_user
    mov [rip+hog_thread], rax
.Lhog_run:
    call schedule
    xor eax, eax
    ret

# u64 hog_dive(void): system call SYS_HOG
hog_dive:
    xor edi, edi
    mov esi, 10
    lea rdx, [rip+hog_asleep]
    jmp ask_deep
hog_asleep:
    lea rdi, [rip+.Lframe_event_slept]
    call event
    lea rdi, [rip+hog_gate]
    mov esi, 1
    call gate_sleep
    xor eax, eax
    ret

# u64 call_nothing(void)
# A system call: in and out. A LIFO pool deals the same frames in reverse each time, so an even number
# of entries between two deep ones would bring the same frames to the same pages.
call_nothing:
    xor eax, eax
    ret

# ---- ring 3
.p2align 12, 0x90
hog_user:
    mov eax, SYS_HOG
    syscall
    jmp .Luser_rounds_exit

# The usual program. Its argument is in bytes, from the lowest: how many rounds; then the system calls
# of a round, in order, each given the round's number; 0 ends them. A result other than 0 ends it.
user_rounds:
    movzx r12d, dil
    mov r13, rdi
    xor ebx, ebx
.Luser_rounds_next:
    mov r14, r13
.Luser_rounds_call:
    shr r14, 8
    movzx eax, r14b
    test eax, eax
    jz .Luser_rounds_end
    mov rdi, rbx
    syscall
    test rax, rax
    jnz .Luser_rounds_exit
    jmp .Luser_rounds_call
.Luser_rounds_end:
    inc ebx
    cmp ebx, r12d
    jb .Luser_rounds_next
    xor eax, eax
.Luser_rounds_exit:
    mov rdi, rax
    mov eax, SYS_EXIT
    syscall
.p2align 12, 0x90

.section .rodata
.Lframe_text_rounds:
    .asciz ": rounds "
.Lframe_text_wrong:
    .asciz " wrong "
.Lframe_text_newline:
    .asciz "\n"
.Lframe_text_failed:
    .asciz ": a thread failed\n"
.Lframe_text_late:
    .asciz ": waited too long\n"
.Lframe_text_alone:
    .asciz ": needs more CPUs\n"
.Lframe_text_memory:
    .asciz ": no memory for a thread\n"
.Lframe_event_slept:
    .asciz "slept"

.bss
.p2align 3
wrong_count:                            # what the scenario's own check found wrong
    .zero 8
round_count:                            # rounds done
    .zero 8
hog_thread:
    .zero 8
hog_gate:
    .zero GATE_BYTES
started:                                # MAX_STARTED * 8
    .zero 512
