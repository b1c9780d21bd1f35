# Growth when there is no page left: asleep and atomic.
#
# The policy gets 32 pages. Processes are started on both CPUs until there are 14, or no memory for
# another. Every second one is a holder: it asks for 12 KiB, goes that deep and sleeps there until all
# holders have come so far. Then each of the others asks for 12 KiB and goes that deep with a spinlock
# held and interrupts off, where nobody can wait for a page. "No" is an answer to a request: who hears
# it stays shallow. A fault on the way down is caught here, so that the guest goes on; what it says of
# the policy is the machine's to say.

.equ SYS_HOLD,      64                  # hold()
.equ SYS_ATOMIC,    65                  # atomic()
.equ HOLDER,        0x4001
.equ OTHER,         0x4101
.equ THREADS,       14
.equ DEPTH,         10                  # KiB
.equ MAGIC,         0x4452590000000000  # "DRY"; plus the thread

.text
# u64 dry_hold(void)
dry_hold:
    mov edi, (DEPTH+2)*1024
    call stack_request
    test rax, rax
    jz .Lhold_refused
    lea rdi, [rip+dry_dive]
    lea rsi, [rip+dry_asleep]
    call try_call
    cmp rax, -1
    je .Lhold_end
    sti                                 # it faulted: go on shallow
    lock inc qword ptr [rip+faulted]
    jmp .Lhold_arrive
.Lhold_refused:
    lock inc qword ptr [rip+refused]
.Lhold_arrive:
    lea rdi, [rip+arrived]
    call gate_raise
.Lhold_end:
    lock inc qword ptr [rip+round_count]
    xor eax, eax
    ret
dry_asleep:
    push rbx
    CURRENT
    movabs rbx, MAGIC
    add rbx, [rax+T_ID]
    push rbx
    lea rdi, [rip+arrived]
    call gate_raise
    lea rdi, [rip+release]
    mov esi, 1
    call gate_sleep
    pop rax
    cmp rax, rbx
    je .Lasleep_right
    lock inc qword ptr [rip+wrong_count]
.Lasleep_right:
    pop rbx
    ret

# void dry_dive(void (*function)(void))
dry_dive:
    mov rdx, rdi
    mov esi, DEPTH
    jmp deep

# u64 dry_atomic(void)
dry_atomic:
    lea rdi, [rip+start_atomic]
    mov esi, 1
    call gate_sleep
    mov edi, (DEPTH+2)*1024
    call stack_request
    test rax, rax
    jz .Latomic_refused
    lea rdi, [rip+dry_lock]
    call spin_lock_irq
    push rax
    lea rdi, [rip+dry_dive]
    lea rsi, [rip+dry_bottom]
    call try_call
    pop rsi
    push rax
    lea rdi, [rip+dry_lock]
    call spin_unlock_irq
    pop rax
    cmp rax, -1
    je .Latomic_end
    lock inc qword ptr [rip+faulted]
    jmp .Latomic_end
.Latomic_refused:
    lock inc qword ptr [rip+refused]
.Latomic_end:
    lea rdi, [rip+arrived]
    call gate_raise
    lock inc qword ptr [rip+round_count]
    xor eax, eax
    ret
dry_bottom:
    ret

# u64 dry_conduct(void)
dry_conduct:
    push rbx
    push r12
    push r13
    xor ebx, ebx                        # processes
.Lconduct_start:
    lea rdi, [rip+user_rounds]
    mov esi, HOLDER
    test ebx, 1
    jz .Lconduct_kind
    mov esi, OTHER
.Lconduct_kind:
    mov edx, ebx
    shr edx, 1
    and edx, 1
    call start_user
    test rax, rax
    jz .Lconduct_all
    lea rcx, [rip+dry_threads]
    mov [rcx+rbx*8], rax
    inc ebx
    cmp ebx, THREADS
    jb .Lconduct_start
.Lconduct_all:
    lea rdi, [rip+arrived]              # the holders
    lea rsi, [rbx+1]
    shr rsi, 1
    call gate_sleep
    lea rdi, [rip+.Levent_held]
    call event
    lea rdi, [rip+start_atomic]
    call gate_raise
    lea rdi, [rip+arrived]
    mov rsi, rbx
    call gate_sleep
    lea rdi, [rip+release]
    call gate_raise
    xor r12d, r12d
    xor r13d, r13d
.Lconduct_join:
    cmp r12, rbx
    jae .Lconduct_end
    lea rcx, [rip+dry_threads]
    mov rdi, [rcx+r12*8]
    call thread_join
    or r13, rax
    inc r12d
    jmp .Lconduct_join
.Lconduct_end:
    cmp [rip+round_count], rbx          # each has ended as it should
    je .Lconduct_well
    lock inc qword ptr [rip+wrong_count]
.Lconduct_well:
    lea rdi, [rip+.Ldry_text_refused]
    call say
    mov rdi, [rip+refused]
    call print_dec
    lea rdi, [rip+.Ldry_text_faulted]
    call print
    mov rdi, [rip+faulted]
    call print_dec
    lea rdi, [rip+.Ldry_text_newline]
    call print
    mov rax, r13
    pop r13
    pop r12
    pop rbx
    ret

.section .rodata
scenario_name:
    .asciz "pool-dry"
.Levent_held:
    .asciz "held"
.Ldry_text_refused:
    .asciz ": refused "
.Ldry_text_faulted:
    .asciz " faulted "
.Ldry_text_newline:
    .asciz "\n"
.p2align 3
scenario_threads:
    .quad 0
scenario_calls:
    .quad dry_hold
    .quad dry_atomic
    .quad 0
.data
.p2align 3
scenario_conductor:
    .quad dry_conduct
scenario_tick:
    .long 0
.p2align 3
scenario_pool:
    .quad 32
.bss
.p2align 3
refused:                                # requests answered by no
    .zero 8
faulted:                                # dives that ended in a fault
    .zero 8
dry_lock:
    .zero 8
arrived:
    .zero GATE_BYTES
start_atomic:
    .zero GATE_BYTES
release:
    .zero GATE_BYTES
dry_threads:                            # THREADS * 8
    .zero 112
