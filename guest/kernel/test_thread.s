# Self-test: timer, preemption, switching, mutex, wait queue, wake-up, migration, stack reuse.

.equ PINGPONG_ROUNDS, 500               # a thread; twice that many switches
.equ MUTEX_ROUNDS,    100
.equ MUTEX_THREADS,   MAX_THREADS-2     # at the most
.equ RELAY_ROUNDS,    50
.equ CREATE_ROUNDS,   100

.text
# The tick arrives on each CPU.
test_ticks:
    lea rdi, [rip+ticks_one]
    xor esi, esi
    jmp for_each_cpu
ticks_one:
    lea rdi, [rbx+CPU_TICKS]
    mov rsi, [rdi]
    add rsi, 2
    jmp wait_above

# A thread that never gives its CPU up is preempted: this one, on the same CPU, gets to stop it.
test_preempt_kernel:
    mov qword ptr [rip+spin_stop], 0
    mov qword ptr [rip+spin_started], 0
    lea rdi, [rip+spin_thread]
    xor esi, esi
    xor edx, edx
    xor ecx, ecx
    call thread_create
    push rax
    lea rdi, [rip+spin_started]
    xor esi, esi
    call wait_above                     # this one spins too: both are preempted
    mov qword ptr [rip+spin_stop], 1
    pop rdi
    push rax
    call thread_join
    pop rcx
    test rax, rax                       # 0: it saw spin_stop
    sete al
    and eax, ecx
    ret
spin_thread:
    mov qword ptr [rip+spin_started], 1
    lea rdi, [rip+spin_stop]
    xor esi, esi
    call wait_above
    xor eax, TEST_PASS
    ret

# Two threads take turns on one CPU, a yield each.
test_pingpong:
    push rbx
    mov qword ptr [rip+turn], 0
    mov rbx, [rip+cpus+CPU_SWITCHES]
    lea rdi, [rip+pingpong_thread]
    xor esi, esi
    xor edx, edx
    xor ecx, ecx
    call thread_create
    push rax
    lea rdi, [rip+pingpong_thread]
    mov esi, 1
    xor edx, edx
    xor ecx, ecx
    call thread_create
    mov rdi, rax
    call thread_join
    pop rdi
    call thread_join
    xor eax, eax
    mov rcx, [rip+cpus+CPU_SWITCHES]
    sub rcx, rbx
    cmp rcx, PINGPONG_ROUNDS+PINGPONG_ROUNDS-2
    jb .Lpingpong_end
    cmp qword ptr [rip+turn], PINGPONG_ROUNDS+PINGPONG_ROUNDS
    jne .Lpingpong_end
    mov eax, TEST_PASS
.Lpingpong_end:
    pop rbx
    ret
pingpong_thread:                        # rdi = 0 or 1: the turns it takes are even or odd
    push rbx
    push r12
    mov r12, rdi
    mov ebx, PINGPONG_ROUNDS
.Lpingpong_wait:
    mov rax, [rip+turn]
    and eax, 1
    cmp rax, r12
    je .Lpingpong_turn
    call schedule
    jmp .Lpingpong_wait
.Lpingpong_turn:
    inc qword ptr [rip+turn]
    call schedule
    dec ebx
    jnz .Lpingpong_wait
    xor eax, eax
    pop r12
    pop rbx
    ret

# Two threads a CPU, or as many as there can be, add to a counter with separate load and store; the mutex
# keeps it exact. The holder yields, so that there are always sleepers whose waiters lie on their stacks.
test_mutex:
    push rbx
    push r12
    mov qword ptr [rip+mutex_count], 0
    xor ebx, ebx
    mov r12, [rip+cpu_count]
    add r12, r12
    cmp r12, MUTEX_THREADS
    jbe .Lmutex_start
    mov r12d, MUTEX_THREADS
.Lmutex_start:
    mov eax, ebx
    xor edx, edx
    div dword ptr [rip+cpu_count]       # rdx = the CPU
    lea rdi, [rip+mutex_thread]
    xor esi, esi
    xor ecx, ecx
    call thread_create
    lea rcx, [rip+mutex_threads]
    mov [rcx+rbx*8], rax
    inc ebx
    cmp rbx, r12
    jb .Lmutex_start
.Lmutex_join:
    dec rbx
    lea rcx, [rip+mutex_threads]
    mov rdi, [rcx+rbx*8]
    call thread_join
    test rbx, rbx
    jnz .Lmutex_join
    imul r12, r12, MUTEX_ROUNDS
    xor eax, eax
    cmp r12, [rip+mutex_count]
    sete al
    pop r12
    pop rbx
    ret
mutex_thread:
    push rbx
    push r12
    mov ebx, MUTEX_ROUNDS
.Lmutex_round:
    lea rdi, [rip+test_lock]
    call mutex_lock
    mov r12, [rip+mutex_count]
    call schedule
    inc r12
    mov [rip+mutex_count], r12
    lea rdi, [rip+test_lock]
    call mutex_unlock
    dec ebx
    jnz .Lmutex_round
    xor eax, eax
    pop r12
    pop rbx
    ret

# Three sleepers on one wait queue are woken one by one, in the order in which they came.
test_wait_queue:
    push rbx
    push r12
    mov qword ptr [rip+wq_log], 0
    mov qword ptr [rip+wq_asleep], 0
    xor ebx, ebx
.Lwq_start:
    lea rdi, [rip+wq_thread]
    lea rsi, [rbx+1]
    xor edx, edx
    xor ecx, ecx
    call thread_create
    lea rcx, [rip+run_threads]
    mov [rcx+rbx*8], rax
    lea rdi, [rip+wq_asleep]
    mov rsi, rbx
    call wait_above                     # it is queued before the next one starts
    inc ebx
    cmp ebx, 3
    jb .Lwq_start
    xor ebx, ebx
.Lwq_wake:
    lea rdi, [rip+test_wq]
    call wq_wake_one
    lea rcx, [rip+run_threads]
    mov rdi, [rcx+rbx*8]
    call thread_join
    inc ebx
    cmp ebx, 3
    jb .Lwq_wake
    xor eax, eax
    cmp qword ptr [rip+wq_log], 0x123
    sete al
    pop r12
    pop rbx
    ret
wq_thread:                              # rdi = 1, 2, 3
    push rbx
    push r12
    mov rbx, rdi
    lea rdi, [rip+test_wq]
    call spin_lock_irq
    mov r12, rax
    inc qword ptr [rip+wq_asleep]
    lea rdi, [rip+test_wq]
    call wq_sleep
    mov rax, [rip+wq_log]
    shl rax, 4
    or rax, rbx
    mov [rip+wq_log], rax
    lea rdi, [rip+test_wq]
    mov rsi, r12
    call spin_unlock_irq
    xor eax, eax
    pop r12
    pop rbx
    ret

# This thread and one on another CPU hand a token to and fro, asleep in between; the CPUs halt when
# they have nothing else, so each hand-over is a wake-up IPI to an idle CPU.
test_wake_other:
    lea rdi, [rip+relay_one]
    jmp for_other_cpus
relay_one:
    push rbp
    mov qword ptr [rip+token], 0
    lea rdi, [rip+relay_thread]
    mov esi, 1
    mov rdx, r12
    xor ecx, ecx
    call thread_create
    mov rbp, rax
    xor edi, edi
    call relay_thread
    mov rdi, rbp
    call thread_join
    xor eax, eax
    cmp qword ptr [rip+token], RELAY_ROUNDS+RELAY_ROUNDS
    sete al
    pop rbp
    ret
relay_thread:                           # rdi = 0 or 1: it acts when the token is even or odd
    push rbx
    push r12
    push r13
    mov r12, rdi
    mov ebx, RELAY_ROUNDS
.Lrelay_round:
    lea rdi, [rip+test_wq]
    call spin_lock_irq
    mov r13, rax
.Lrelay_check:
    mov rax, [rip+token]
    and eax, 1
    cmp rax, r12
    je .Lrelay_mine
    lea rdi, [rip+test_wq]
    call wq_sleep
    jmp .Lrelay_check
.Lrelay_mine:
    inc qword ptr [rip+token]
    lea rdi, [rip+test_wq]
    call wq_wake_all_locked
    lea rdi, [rip+test_wq]
    mov rsi, r13
    call spin_unlock_irq
    dec ebx
    jnz .Lrelay_round
    xor eax, eax
    pop r13
    pop r12
    pop rbx
    ret

# A thread visits every CPU twice and finds itself there.
test_migrate:
    lea rdi, [rip+migrate_thread]
    xor esi, esi
    xor edx, edx
    xor ecx, ecx
    call thread_create
    mov rdi, rax
    call thread_join
    test rax, rax
    sete al
    movzx eax, al
    ret
migrate_thread:
    push rbx
    push r12
    mov r12d, 2
.Lmigrate_round:
    xor ebx, ebx
.Lmigrate_next:
    mov rdi, rbx
    call set_cpu
    THIS_CPU
    cmp rbx, [rax+CPU_ID]
    jne .Lmigrate_fail
    inc ebx
    cmp rbx, [rip+cpu_count]
    jb .Lmigrate_next
    dec r12d
    jnz .Lmigrate_round
    xor eax, eax
    jmp .Lmigrate_end
.Lmigrate_fail:
    mov eax, 1
.Lmigrate_end:
    pop r12
    pop rbx
    ret

# A hundred threads one after the other: all on the same stack slot, and no frame is lost.
test_stack_reuse:
    push rbx
    push r12
    push r13
    push r14
    xor r12d, r12d                      # stack bottom of the first
    xor r13d, r13d                      # frames in use after the first
    xor r14d, r14d                      # sum of the exit codes
    xor ebx, ebx
.Lreuse_next:
    lea rdi, [rip+reuse_thread]
    mov rsi, rbx
    xor edx, edx
    xor ecx, ecx
    call thread_create
    mov rdi, rax
    test r12, r12
    jnz .Lreuse_same
    mov r12, [rdi+T_STACK]
.Lreuse_same:
    cmp r12, [rdi+T_STACK]
    jne .Lreuse_fail
    call thread_join
    add r14, rax
    test ebx, ebx
    jnz .Lreuse_frames
    mov r13, [rip+frame_next]
.Lreuse_frames:
    cmp r13, [rip+frame_next]
    jne .Lreuse_fail
    inc ebx
    cmp ebx, CREATE_ROUNDS
    jb .Lreuse_next
    xor eax, eax
    cmp r14, 4950                       # 0 + 1 + .. + 99
    sete al
    jmp .Lreuse_end
.Lreuse_fail:
    mov eax, TEST_FAIL
.Lreuse_end:
    pop r14
    pop r13
    pop r12
    pop rbx
    ret
reuse_thread:
    push rdi                            # the new stack is really there, down to its bottom
    CURRENT
    mov rcx, [rax+T_STACK]
    lea rdx, [rsp-8]
.Lreuse_touch:
    mov [rdx], rdx
    sub rdx, 2048
    cmp rdx, rcx
    jae .Lreuse_touch
    pop rax
    ret

.data
.p2align 3
spin_stop:
    .quad 0
spin_started:
    .quad 0
turn:
    .quad 0
token:
    .quad 0
mutex_count:
    .quad 0
wq_log:
    .quad 0
wq_asleep:
    .quad 0
.bss
.p2align 3
test_lock:
    .zero MX_BYTES
test_wq:
    .zero WQ_BYTES
mutex_threads:                          # MAX_THREADS * 8
    .zero 512
