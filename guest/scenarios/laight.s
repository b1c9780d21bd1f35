# Laight's scenario: an on-stack item, read by another CPU, at the same address in two frames.
#
# A (ring 3, CPU 0) enters the kernel, goes deep, puts two items on its stack, one in the third page
# from the top that links to one in the second, and publishes the first. B (another process, CPU 1)
# then follows the list head and reads both, so its TLB holds two pages of A's stack. A takes the
# items off the list and returns to ring 3: a policy may now free those pages. C (CPU 0) goes deep
# and stays asleep there, so that freed frames find a new owner. A goes deep again; its items have
# the same addresses, and by policy other frames. If B now reads through what its TLB kept, it
# finds anything but the value that A has published in ordinary memory meanwhile.
#
#   CPU 0  A: publish ........ remove, return | C: deep, sleep | A: publish ........ remove
#   CPU 1  B:         read, ok                                            read, wrong?
#
# No lock is taken around the reads: nothing that B does in between loads CR3 or flushes. No timer
# ticks. laight_sleeps (laight_spin.s or laight_sleep.s) says how A waits for B: spinning with
# interrupts on, or asleep, deep in its stack, until B wakes it.

.equ ROUNDS,        2
.equ SPIN_BOUND,    5000000             # pauses until a wait is given up
.equ MAGIC,         0x4c41494748540000  # "LAIGHT"; plus the round, and 256 for the second item
.equ OUTER_FRAMES,  5                   # of 1 KiB: the second item is about 5.5 KiB deep
.equ INNER_FRAMES,  4                   # the first about 9.7 KiB
.equ DEEP_BYTES,    11264               # what A and C ask the policy for
.equ SYS_PUBLISH,   64                  # publish(round)
.equ SYS_WATCH,     65                  # watch(round)
.equ SYS_INVITE,    66                  # invite()
.equ SYS_SLEEP,     67                  # sleep()

# struct item, on A's stack
.equ IT_NEXT,       0
.equ IT_MAGIC,      8

.text
# u64 scenario_main(void)
scenario_main:
    push rbx
    cmp qword ptr [rip+cpu_count], 2
    jb .Llaight_alone
    lea rax, [rip+laight_syscall]
    mov [rip+scenario_syscall], rax
    mov qword ptr [rip+user_rflags], FLAGS_USER_IO
    mov edx, 1
    lea rcx, [rip+laight_user_b]
    call laight_thread
    mov [rip+thread_b], rax
    xor edx, edx
    lea rcx, [rip+laight_user_a]
    call laight_thread
    mov rbx, rax
    mov rdi, rbx
    call thread_join
    mov rbx, rax                        # exit codes, 0 = well
    mov qword ptr [rip+a_left], 1
    lea rdi, [rip+done_wq]
    call wq_wake_all
    mov rdi, [rip+thread_b]
    call thread_join
    or rbx, rax
    mov rdi, [rip+thread_c]
    test rdi, rdi
    jz .Llaight_no_c
    call thread_join
    or rbx, rax
.Llaight_no_c:
    test rbx, rbx
    jz .Llaight_report
    lea rdi, [rip+.Llaight_text_failed]
    call print
.Llaight_report:
    lea rdi, [rip+.Llaight_text_rounds]
    call print
    mov edi, ROUNDS
    call print_dec
    lea rdi, [rip+.Llaight_text_wrong]
    call print
    mov rdi, [rip+wrong]
    call print_dec
    lea rdi, [rip+.Llaight_text_newline]
    call print
    mov rax, rbx
    or rax, [rip+wrong]
    pop rbx
    ret
.Llaight_alone:
    lea rdi, [rip+.Llaight_text_alone]
    call print
    mov eax, 1
    pop rbx
    ret

# struct thread *laight_thread(_, _, u64 cpu, void *program)
laight_thread:
    xor edi, edi
    xor esi, esi
    jmp thread_create

# u64 laight_syscall(struct trap_frame *frame)
laight_syscall:
    mov rax, [rdi+TF_RAX]
    mov rdi, [rdi+TF_RDI]
    cmp rax, SYS_PUBLISH
    je laight_publish
    cmp rax, SYS_WATCH
    je laight_watch
    cmp rax, SYS_INVITE
    je laight_invite
    cmp rax, SYS_SLEEP
    je laight_sleep
    mov rax, -ENOSYS
    ret

# u64 deep(u64 argument, u64 frames, u64 (*function)(u64))
# Call it with so many KiB of stack above it, each page touched on the way down, in order.
deep:
    sub rsp, 1016
    mov [rsp], rdi                      # touch
    dec rsi
    jz .Ldeep_there
    call deep
    add rsp, 1016
    ret
.Ldeep_there:
    call rdx
    add rsp, 1016
    ret

# u64 laight_publish(u64 round)
# A. Returns 0, or 1 if the policy refused the stack or the address is not the same as before.
laight_publish:
    push rdi
    mov edi, DEEP_BYTES
    call stack_request
    pop rdi
    test rax, rax
    jz .Lpublish_refused
    mov esi, OUTER_FRAMES
    lea rdx, [rip+laight_outer]
    jmp deep
.Lpublish_refused:
    mov eax, 1
    ret

# The second item lives in this frame.
laight_outer:
    sub rsp, 24
    mov qword ptr [rsp+IT_NEXT], 0
    movabs rax, MAGIC
    lea rax, [rax+rdi+256]
    mov [rsp+IT_MAGIC], rax
    call share_stack
    mov [rip+outer_item], rsp
    mov esi, INNER_FRAMES
    lea rdx, [rip+laight_inner]
    call deep
    add rsp, 24
    ret

# The first item lives in this one, from here to its removal.
laight_inner:
    push rbx
    sub rsp, 16
    mov rbx, rdi
    mov rax, [rip+first_address]
    test rax, rax
    jz .Linner_first
    cmp rax, rsp                        # another address would make the scenario pointless
    jne .Linner_moved
.Linner_first:
    mov [rip+first_address], rsp
    mov rax, [rip+outer_item]
    mov [rsp+IT_NEXT], rax
    movabs rax, MAGIC
    add rax, rbx
    mov [rsp+IT_MAGIC], rax
    mov [rip+expected], rax             # before the head: B compares with it
    call share_stack
    mov [rip+list_head], rsp
    lea rax, [rbx+1]
    mov [rip+published], rax
    lea rdi, [rip+.Levent_published]
    call event
    mov rdi, rbx
    call wait_for_b
    mov rbx, rax
    mov qword ptr [rip+list_head], 0
    lea rdi, [rip+.Levent_removed]
    call event
    mov rax, rbx
    add rsp, 16
    pop rbx
    ret
.Linner_moved:
    lea rdi, [rip+.Llaight_text_moved]
    call print
    mov eax, 1
    add rsp, 16
    pop rbx
    ret

# u64 wait_for_b(u64 round)
# Until B has seen that round. Returns 0.
wait_for_b:
    cmp qword ptr [rip+laight_sleeps], 0
    jne .Lwait_asleep
    inc rdi
    mov ecx, SPIN_BOUND
.Lwait_spin:
    cmp [rip+seen], rdi
    je .Lwait_seen
    pause
    dec ecx
    jnz .Lwait_spin
    jmp laight_give_up
.Lwait_seen:
    xor eax, eax
    ret
.Lwait_asleep:
    push rbx
    push r12
    lea rbx, [rdi+1]
    lea rdi, [rip+seen_wq]
    call spin_lock_irq
    mov r12, rax
.Lwait_check:
    cmp [rip+seen], rbx
    je .Lwait_awake
    lea rdi, [rip+seen_wq]
    call wq_sleep
    jmp .Lwait_check
.Lwait_awake:
    lea rdi, [rip+seen_wq]
    mov rsi, r12
    call spin_unlock_irq
    xor eax, eax
    pop r12
    pop rbx
    ret

# u64 laight_watch(u64 round)
# B. Wait for the list, read the items where they are, on A's stack, and compare.
laight_watch:
    push rbx
    push r12
    push r13
    mov rbx, rdi
    mov ecx, SPIN_BOUND
.Lwatch_wait:
    cmp [rip+published], rbx            # a count: an empty list is too short to be waited for
    ja .Lwatch_read
    pause
    dec ecx
    jnz .Lwatch_wait
    jmp laight_give_up
.Lwatch_read:
    mov r12, [rip+list_head]
    mov rax, [r12+IT_MAGIC]             # the access in question
    mov r13, [r12+IT_NEXT]
    cmp rax, [rip+expected]
    jne .Lwatch_wrong
    cmp r13, [rip+outer_item]           # a stale item's link is not followed
    jne .Lwatch_wrong
    mov rax, [r13+IT_MAGIC]             # the same, one page up
    sub rax, 256
    cmp rax, [rip+expected]
    je .Lwatch_right
.Lwatch_wrong:
    inc qword ptr [rip+wrong]
.Lwatch_right:
    lea rdi, [rip+.Levent_read]
    call event
    lea rdi, [rip+seen_wq]
    call spin_lock_irq
    mov r13, rax
    inc rbx
    mov [rip+seen], rbx
    lea rdi, [rip+seen_wq]
    call wq_wake_all_locked             # nobody, unless A sleeps
    lea rdi, [rip+seen_wq]
    mov rsi, r13
    call spin_unlock_irq
    lea rdi, [rip+.Levent_seen]
    call event
    cmp rbx, ROUNDS
    jb .Lwatch_end
    mov ecx, SPIN_BOUND                 # nobody else would notice if A never woke up
.Lwatch_removed:
    cmp qword ptr [rip+list_head], 0
    je .Lwatch_end
    pause
    dec ecx
    jnz .Lwatch_removed
    jmp laight_give_up
.Lwatch_end:
    xor eax, eax
    pop r13
    pop r12
    pop rbx
    ret

# void laight_give_up(void)
# What should have happened long ago has not. Never returns.
laight_give_up:
    lea rdi, [rip+.Llaight_text_late]
    call print
    mov edi, EXIT_FAIL
    jmp shut_down

# u64 laight_invite(void)
# A, after a round: start C on this CPU, the first time, and let it run until it sleeps.
laight_invite:
    cmp qword ptr [rip+thread_c], 0
    jne .Linvite_run
    xor edx, edx
    lea rcx, [rip+laight_user_c]
    call laight_thread
    mov [rip+thread_c], rax
.Linvite_run:
    call schedule
    xor eax, eax
    ret

# u64 laight_sleep(void)
# C. Sleep deep in the kernel until A has done its rounds.
laight_sleep:
    mov edi, DEEP_BYTES
    call stack_request
    mov esi, OUTER_FRAMES+INNER_FRAMES
    lea rdx, [rip+laight_asleep]
    jmp deep
laight_asleep:
    push rbx
    lea rdi, [rip+.Levent_slept]
    call event
    lea rdi, [rip+done_wq]
    call spin_lock_irq
    mov rbx, rax
.Lasleep_check:
    cmp qword ptr [rip+a_left], 0
    jne .Lasleep_over
    lea rdi, [rip+done_wq]
    call wq_sleep
    jmp .Lasleep_check
.Lasleep_over:
    lea rdi, [rip+done_wq]
    mov rsi, rbx
    call spin_unlock_irq
    xor eax, eax
    pop rbx
    ret

# ---- ring 3
.p2align 12, 0x90
# A: two rounds. In between it lets C run and makes one more short call: a policy that maps
# on entry and unmaps on exit from a LIFO pool hands the same frames out in reverse each time, so an
# odd number of reversals from round to round is what brings other frames.
laight_user_a:
    xor ebx, ebx
.Luser_a_round:
    mov rdi, rbx
    mov eax, SYS_PUBLISH
    syscall
    test rax, rax
    jnz .Luser_exit
    lea rdi, [rip+.Levent_returned]
    mov eax, HYPER_EVENT
    out PORT_HYPERCALL, eax
    jmp .Luser_a_marked
.Luser_a_marked:
    inc ebx
    xor eax, eax
    cmp ebx, ROUNDS
    je .Luser_exit
    mov eax, SYS_INVITE
    syscall
    mov eax, SYS_GETCPU
    syscall
    jmp .Luser_a_round
.Luser_exit:
    mov rdi, rax
    mov eax, SYS_EXIT
    syscall

# B: watch as many rounds.
laight_user_b:
    xor ebx, ebx
.Luser_b_round:
    mov rdi, rbx
    mov eax, SYS_WATCH
    syscall
    test rax, rax
    jnz .Luser_exit
    inc ebx
    cmp ebx, ROUNDS
    jb .Luser_b_round
    jmp .Luser_exit

laight_user_c:
    mov eax, SYS_SLEEP
    syscall
    jmp .Luser_exit
.Levent_returned:                       # read by the machine while in ring 3
    .asciz "returned"
.p2align 12, 0x90

.section .rodata
.Levent_published:
    .asciz "published"
.Levent_read:
    .asciz "read"
.Levent_removed:
    .asciz "removed"
.Levent_seen:
    .asciz "seen"
.Levent_slept:
    .asciz "slept"
.Llaight_text_late:
    .asciz "laight: waited too long\n"
.Llaight_text_failed:
    .asciz "laight: a thread failed\n"
.Llaight_text_alone:
    .asciz "laight: needs 2 CPUs\n"
.Llaight_text_moved:
    .asciz "laight: the item's address changed\n"
.Llaight_text_rounds:
    .asciz "laight: rounds "
.Llaight_text_wrong:
    .asciz " wrong "
.Llaight_text_newline:
    .asciz "\n"

.data
.p2align 3
scenario_tick:                          # no timer
    .long 0
.p2align 3
scenario_pool:
    .quad POOL_PAGES
.p2align 3
list_head:                              # first item, on A's stack, or 0
    .quad 0
published:                              # rounds that A has published
    .quad 0
expected:                               # its magic, in ordinary memory
    .quad 0
outer_item:                             # address of the second item
    .quad 0
first_address:                          # where the first item was in round 0
    .quad 0
seen:                                   # rounds that B has read
    .quad 0
wrong:                                  # rounds in which B read something else
    .quad 0
a_left:                                 # A has done its rounds
    .quad 0
thread_b:
    .quad 0
thread_c:
    .quad 0
.bss
.p2align 3
seen_wq:
    .zero WQ_BYTES
done_wq:
    .zero WQ_BYTES
