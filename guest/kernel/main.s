# Boot order, and the main thread.
#
# Reading order of the kernel, in which its files are also assembled: defs.s (the layout), boot.s,
# trampoline.s, ap.s, desc.s, vectors.s, trap.s, panic.s, syscall.s, fred.s, switch.s, sched.s, spin.s,
# lock.s, apic.s, ipi.s, mem.s, pcid.s, hyper.s, console.s, main.s. The self-test is user.s, selftest.s and test_*.s.
#
# A scenario links with the kernel and provides
#   u64 scenario_main(void)   runs in a kernel thread on CPU 0; 0 = pass
#   u32 scenario_tick         bus clocks a timer tick, 0 = no ticks
#   u64 scenario_pool         pages that the stack policy gets; more than POOL_PAGES lie above RAM_END. Exactly
#                             POOL_PAGES is the usual: more where there are more than eight CPUs

.text
# void kmain(void)
# First CPU: boot stack, interrupts off.
kmain:
    call console_init
    xor edi, edi
    call cpu_init
    call idt_init
    lea rdi, [rip+cpus]
    call desc_init
    call mem_init
    call pic_disable
    call apic_init
    call syscall_init
    call hyper_init
    call smp_boot
    movabs rax, DIRECT_BASE
    mov qword ptr [rax+KERNEL_PML4], 0  # no identity map any more
    mov eax, KERNEL_PML4
    mov cr3, rax
    call hyper_boot
    call obey_first
    lea rdi, [rip+.Lmain_text_banner]
    call print
    mov rdi, [rip+cpu_count]
    call print_dec
    lea rdi, [rip+.Lmain_text_newline]
    call print
    mov qword ptr [rip+cpus_go], 1
    call cpu_start
.Lmain_wait:
    mov rax, [rip+cpus_started]
    cmp rax, [rip+cpu_count]
    je .Lmain_all
    pause
    jmp .Lmain_wait
.Lmain_all:
    lea rdi, [rip+.Levent_booted]       # every run of a scenario starts from here
    call event
    lea rdi, [rip+main_thread]
    xor esi, esi
    xor edx, edx
    xor ecx, ecx
    call thread_create
    jmp idle_loop

# void ap_main(u64 cpu)
# Every other CPU: boot stack, interrupts off.
ap_main:
    call cpu_init
    mov rdi, rax
    call desc_init
    call apic_init
    call syscall_init
    lock inc qword ptr [rip+cpus_online]
.Lap_wait:
    pause
    cmp qword ptr [rip+cpus_go], 0
    je .Lap_wait
    mov eax, KERNEL_PML4
    mov cr3, rax                        # drop the identity map
    call cpu_start
    jmp idle_loop

# struct cpu *cpu_init(u64 cpu)
# Fill in struct cpu and its idle thread, which is the context that runs now.
cpu_init:
    lea rax, [rip+cpus]
    mov rcx, rdi
    shl rcx, CPU_SHIFT
    add rax, rcx
    lea rdx, [rip+idle_threads]
    mov rcx, rdi
    shl rcx, THREAD_SHIFT
    add rdx, rcx
    mov [rax+CPU_SELF], rax
    mov [rax+CPU_ID], rdi
    mov [rax+CPU_THREAD], rdx
    mov [rax+CPU_IDLE], rdx
    mov [rdx+T_CPU], rdi
    mov qword ptr [rdx+T_STATE], STATE_RUNNING
    mov qword ptr [rdx+T_ON_CPU], 1
    mov qword ptr [rdx+T_PREEMPT], 1
    mov qword ptr [rdx+T_IS_IDLE], 1
    mov qword ptr [rdx+T_CR3], KERNEL_PML4
    ret

# void cpu_start(void)
# This CPU takes part from now on.
cpu_start:
    push rbx
    call obey
    THIS_CPU
    mov rbx, rax
    mov qword ptr [rbx+CPU_ONLINE], 1
    mov rdi, [rbx+CPU_ID]
    mov eax, HYPER_CPU_UP
    call hypercall
    mov edi, [rip+scenario_tick]
    call timer_start
    lock inc qword ptr [rip+cpus_started]
    pop rbx
    ret

# u64 main_thread(u64)
main_thread:
    call scenario_main
    mov edi, EXIT_PASS
    test rax, rax
    jz shut_down
    mov edi, EXIT_FAIL
    jmp shut_down

.section .rodata
.Lmain_text_banner:
    .asciz "kstack guest kernel, cpus "
.Lmain_text_newline:
    .asciz "\n"
.Levent_booted:
    .asciz "booted"
.data
.p2align 3
cpus_go:                                # the others may start
    .quad 0
cpus_started:
    .quad 0
.bss
.p2align 6
cpus:                                   # MAX_CPUS * CPU_BYTES
    .zero 16384
