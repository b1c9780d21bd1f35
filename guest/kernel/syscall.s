# System calls: SYSCALL entry, dispatch, SYSRET exit.
#
# SDM 5.8.8 (SYSCALL, SYSRET), volume 2. Number in rax, arguments in rdi rsi rdx, result in rax;
# rcx and r11 are lost, everything else is kept. The entry builds the trap frame of trap.s, so that
# a thread in a system call looks like one in an interrupt. Numbers from SYS_SCENARIO up go to
# the function in scenario_syscall.

.text
# void syscall_init(void)
# Every CPU.
syscall_init:
    mov ecx, MSR_STAR
    xor eax, eax
    mov edx, STAR_HIGH
    wrmsr
    mov ecx, MSR_LSTAR
    lea rax, [rip+syscall_entry]
    mov rdx, rax
    shr rdx, 32
    wrmsr
    mov ecx, MSR_FMASK
    mov eax, FMASK_VALUE
    xor edx, edx
    wrmsr
    ret

# rcx = user rip, r11 = user rflags, rsp = user stack, interrupts off. The gs: accesses are spelled
# in bytes: no spelling of an absolute address assembles alike everywhere.
syscall_entry:
    swapgs
    .byte 0x65, 0x48, 0x89, 0x24, 0x25  # mov gs:[CPU_USER_RSP], rsp
    .long CPU_USER_RSP
    .byte 0x65, 0x48, 0x8b, 0x24, 0x25  # mov rsp, gs:[CPU_KSTACK]
    .long CPU_KSTACK
    push USER_DS
    .byte 0x65, 0xff, 0x34, 0x25        # push gs:[CPU_USER_RSP]
    .long CPU_USER_RSP
    push r11
    push USER_CS
    push rcx
    push 0
    push VEC_SYSCALL
    PUSH_REGS
    call enter_kernel
    sti
    mov rdi, rsp
    call syscall_dispatch
    mov [rsp+TF_RAX], rax
.Lsyscall_leave:
    cli
    THIS_CPU
    cmp qword ptr [rax+CPU_RESCHED], 0
    je .Lsyscall_return
    call schedule
    jmp .Lsyscall_leave
.Lsyscall_return:
    call exit_kernel
    POP_REGS                            # rcx and r11 as SYSCALL left them
    mov rsp, [rsp+40]                   # vector, error, rip, cs, rflags, then rsp
    swapgs
    .byte 0x48, 0x0f, 0x07              # sysretq

# u64 syscall_dispatch(struct trap_frame *frame)
# Interrupts on.
syscall_dispatch:
    mov rax, [rdi+TF_RAX]
    cmp rax, SYS_SCENARIO
    jae .Lsyscall_scenario
    cmp rax, SYS_TICKS
    ja .Lsyscall_bad
    lea rcx, [rip+syscall_table]
    jmp qword ptr [rcx+rax*8]
.Lsyscall_scenario:
    mov rcx, [rip+scenario_syscall]
    test rcx, rcx
    jz .Lsyscall_bad
    jmp rcx
.Lsyscall_bad:
    mov rax, -ENOSYS
    ret

# Each: u64 sys_x(struct trap_frame *frame)
sys_echo:                               # echo(value)
    mov rax, [rdi+TF_RDI]
    ret
sys_exit:                               # exit(code)
    mov rdi, [rdi+TF_RDI]
    jmp thread_exit
sys_yield:                              # yield()
    call schedule
    xor eax, eax
    ret
sys_setcpu:                             # setcpu(cpu)
    mov rdi, [rdi+TF_RDI]
    cmp rdi, [rip+cpu_count]
    jae .Lsyscall_bad
    call set_cpu
    xor eax, eax
    ret
sys_getcpu:                             # getcpu()
    THIS_CPU
    mov rax, [rax+CPU_ID]
    ret
sys_ticks:                              # ticks() of this CPU
    THIS_CPU
    mov rax, [rax+CPU_TICKS]
    ret

.section .rodata
.p2align 3
syscall_table:
    .quad sys_echo
    .quad sys_exit
    .quad sys_yield
    .quad sys_setcpu
    .quad sys_getcpu
    .quad sys_ticks
.data
.p2align 3
scenario_syscall:                       # u64 (*)(struct trap_frame *), or 0
    .quad 0
