# The kernel's self-test: every mechanism once, with a PASS, FAIL or SKIP line each.
#
# Only the main thread prints, and nothing printed depends on speed, so the console is the same text
# on every machine with as many CPUs. Tests that need another CPU are skipped on one. The tests are
# in test_trap.s, test_interrupt.s, test_memory.s, test_smp.s, test_thread.s, test_user.s; each is
#   u64 test_x(void)   thread context on CPU 0, interrupts on: TEST_FAIL, TEST_PASS or TEST_SKIP

.equ TEST_FAIL, 0
.equ TEST_PASS, 1
.equ TEST_SKIP, 2
.equ SPIN_LIMIT, 50000000               # a wait that reaches it has failed

.text
# u64 scenario_main(void)
scenario_main:
    push rbx
    push r12
    push r13
    push r14
    xor r12d, r12d                      # passed
    xor r13d, r13d                      # failed
    lea rbx, [rip+selftest_table]
.Lself_next:
    mov r14, [rbx+8]
    test r14, r14
    jz .Lself_end
    call r14
    cmp eax, TEST_PASS
    ja .Lself_skip
    je .Lself_pass
    inc r13d
    lea rdi, [rip+.Lself_text_fail]
    jmp .Lself_report
.Lself_pass:
    inc r12d
    lea rdi, [rip+.Lself_text_pass]
    jmp .Lself_report
.Lself_skip:
    lea rdi, [rip+.Lself_text_skip]
.Lself_report:
    call print
    mov rdi, [rbx]
    call print
    lea rdi, [rip+.Lself_text_newline]
    call print
    add rbx, 16
    jmp .Lself_next
.Lself_end:
    lea rdi, [rip+.Lself_text_total]
    call print
    mov rdi, r12
    call print_dec
    lea rdi, [rip+.Lself_text_passed]
    call print
    mov rdi, r13
    call print_dec
    lea rdi, [rip+.Lself_text_failed]
    call print
    mov rax, r13
    pop r14
    pop r13
    pop r12
    pop rbx
    ret

# u64 wait_above(u64 *counter, u64 value)
# Spin with interrupts on until *counter > value: TEST_PASS, or TEST_FAIL at the limit.
wait_above:
    mov ecx, SPIN_LIMIT
    mov eax, TEST_PASS
.Lwait_above_spin:
    cmp [rdi], rsi
    ja .Lwait_above_end
    pause
    dec ecx
    jnz .Lwait_above_spin
    mov eax, TEST_FAIL
.Lwait_above_end:
    ret

.section .rodata
.Lself_text_pass:
    .asciz "PASS "
.Lself_text_fail:
    .asciz "FAIL "
.Lself_text_skip:
    .asciz "SKIP "
.Lself_text_newline:
    .asciz "\n"
.Lself_text_total:
    .asciz "selftest: "
.Lself_text_passed:
    .asciz " passed, "
.Lself_text_failed:
    .asciz " failed\n"

.p2align 3
selftest_table:                         # name, function
    .quad .Lname_ud, test_ud
    .quad .Lname_de, test_de
    .quad .Lname_bp, test_bp
    .quad .Lname_gp_selector, test_gp_selector
    .quad .Lname_gp_address, test_gp_address
    .quad .Lname_pf_read, test_pf_read
    .quad .Lname_pf_write, test_pf_write
    .quad .Lname_pf_readonly, test_pf_readonly
    .quad .Lname_pf_exec, test_pf_exec
    .quad .Lname_pf_exec_nx, test_pf_exec_nx
    .quad .Lname_pf_ist, test_pf_ist
    .quad .Lname_df, test_df
    .quad .Lname_ist_rewind, test_ist_rewind
    .quad .Lname_nmi_self, test_nmi_self
    .quad .Lname_nmi_blocked, test_nmi_blocked
    .quad .Lname_sti_shadow, test_sti_shadow
    .quad .Lname_accessed_dirty, test_accessed_dirty
    .quad .Lname_dirty_at_once, test_dirty_at_once
    .quad .Lname_write_protect, test_write_protect
    .quad .Lname_unmap, test_unmap
    .quad .Lname_frames, test_frames
    .quad .Lname_ipi, test_ipi
    .quad .Lname_cross_call, test_cross_call
    .quad .Lname_nmi_other, test_nmi_other
    .quad .Lname_shootdown, test_shootdown
    .quad .Lname_shootdown_storm, test_shootdown_storm
    .quad .Lname_ticks, test_ticks
    .quad .Lname_preempt_kernel, test_preempt_kernel
    .quad .Lname_pingpong, test_pingpong
    .quad .Lname_mutex, test_mutex
    .quad .Lname_wait_queue, test_wait_queue
    .quad .Lname_wake_other, test_wake_other
    .quad .Lname_migrate, test_migrate
    .quad .Lname_stack_reuse, test_stack_reuse
    .quad .Lname_syscall_echo, test_syscall_echo
    .quad .Lname_syscall_flags, test_syscall_flags
    .quad .Lname_syscall_bad, test_syscall_bad
    .quad .Lname_user_migrate, test_user_migrate
    .quad .Lname_preempt_user, test_preempt_user
    .quad .Lname_user_read_kernel, test_user_read_kernel
    .quad .Lname_user_write, test_user_write
    .quad .Lname_user_write_code, test_user_write_code
    .quad .Lname_user_exec, test_user_exec
    .quad .Lname_user_hlt, test_user_hlt
    .quad .Lname_user_ud, test_user_ud
    .quad .Lname_user_bp, test_user_bp
    .quad .Lname_user_int, test_user_int
    .quad 0, 0
.Lname_ud:
    .asciz "ud: invalid opcode is #UD at its address"
.Lname_de:
    .asciz "de: division by zero is #DE"
.Lname_bp:
    .asciz "bp: INT3 is #BP at the next instruction"
.Lname_gp_selector:
    .asciz "gp_selector: #GP carries the selector"
.Lname_gp_address:
    .asciz "gp_address: a non-canonical address is #GP 0"
.Lname_pf_read:
    .asciz "pf_read: error code 0 and CR2"
.Lname_pf_write:
    .asciz "pf_write: error code 2 and CR2"
.Lname_pf_readonly:
    .asciz "pf_readonly: error code 3 for a write to rodata"
.Lname_pf_exec:
    .asciz "pf_exec: error code 0x10 for a fetch from nowhere"
.Lname_pf_exec_nx:
    .asciz "pf_exec_nx: error code 0x11 for a fetch from data"
.Lname_pf_ist:
    .asciz "pf_ist: #PF on its own stack is moved back"
.Lname_df:
    .asciz "df: a stack overflow is #DF on IST 1"
.Lname_ist_rewind:
    .asciz "ist_rewind: each event starts at the top of its IST stack"
.Lname_nmi_self:
    .asciz "nmi_self: NMI with interrupts off"
.Lname_nmi_blocked:
    .asciz "nmi_blocked: a second NMI waits for IRET"
.Lname_sti_shadow:
    .asciz "sti_shadow: STI holds interrupts off for one instruction"
.Lname_accessed_dirty:
    .asciz "accessed_dirty: a load sets A, a store sets D too"
.Lname_dirty_at_once:
    .asciz "dirty_at_once: a store alone sets A and D"
.Lname_write_protect:
    .asciz "write_protect: CR0.WP decides the kernel's writes"
.Lname_unmap:
    .asciz "unmap: an unmapped page faults after INVLPG"
.Lname_frames:
    .asciz "frames: a freed frame comes back zeroed"
.Lname_ipi:
    .asciz "ipi: a fixed IPI reaches every CPU"
.Lname_cross_call:
    .asciz "cross_call: a function runs on the CPU it is sent to"
.Lname_nmi_other:
    .asciz "nmi_other: an NMI reaches every other CPU"
.Lname_shootdown:
    .asciz "shootdown: another CPU sees a remapped page's new frame"
.Lname_shootdown_storm:
    .asciz "shootdown_storm: all CPUs at once, interrupts off"
.Lname_ticks:
    .asciz "ticks: the timer ticks on every CPU"
.Lname_preempt_kernel:
    .asciz "preempt_kernel: a spinning kernel thread is preempted"
.Lname_pingpong:
    .asciz "pingpong: 1000 context switches"
.Lname_mutex:
    .asciz "mutex: an exact counter under contention"
.Lname_wait_queue:
    .asciz "wait_queue: sleepers wake in order"
.Lname_wake_other:
    .asciz "wake_other: sleep and wake across CPUs"
.Lname_migrate:
    .asciz "migrate: a thread visits every CPU"
.Lname_stack_reuse:
    .asciz "stack_reuse: 100 threads on one stack slot"
.Lname_syscall_echo:
    .asciz "syscall_echo: the result, and every register kept"
.Lname_syscall_flags:
    .asciz "syscall_flags: flags and stack kept"
.Lname_syscall_bad:
    .asciz "syscall_bad: an unknown number is refused"
.Lname_user_migrate:
    .asciz "user_migrate: ring 3 visits every CPU"
.Lname_preempt_user:
    .asciz "preempt_user: a spinning ring-3 thread is preempted"
.Lname_user_read_kernel:
    .asciz "user_read_kernel: error code 5"
.Lname_user_write:
    .asciz "user_write: error code 6"
.Lname_user_write_code:
    .asciz "user_write_code: error code 7"
.Lname_user_exec:
    .asciz "user_exec: error code 0x15"
.Lname_user_hlt:
    .asciz "user_hlt: a privileged instruction is #GP"
.Lname_user_ud:
    .asciz "user_ud: #UD kills the thread"
.Lname_user_bp:
    .asciz "user_bp: #BP through a DPL 3 gate"
.Lname_user_int:
    .asciz "user_int: INT through a DPL 0 gate is #GP"

.data
.p2align 2
scenario_tick:                          # bus clocks a timer tick
    .long TICK_COUNT
.p2align 3
scenario_pool:
    .quad POOL_PAGES
