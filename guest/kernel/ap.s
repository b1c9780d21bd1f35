# Starting the other CPUs: INIT, start-up IPI; what they do first is in trampoline.s.
#
# SDM 8.4 (multiple-processor initialisation), 10.6.1 (ICR).
# All of them start at once from one broadcast. How many must come is asked from fw_cfg.

.equ INIT_SPINS, 20000
.equ SIPI_SPINS, 4000000
.equ SIPI_TRIES, 50

.text
# void smp_boot(void)
# Start every other CPU and wait until all are counted in cpus_online. Interrupts off, CPU 0.
smp_boot:
    push rbx
    push r12
    call fw_cfg_cpus
    mov [rip+cpu_count], rax
    cmp rax, 1
    je .Lsmp_done

    dec eax                             # the other CPUs' stacks
    imul edi, eax, CPU_STACKS_FRAMES
    call frames_reserve
    movabs rcx, DIRECT_BASE
    lea rax, [rax+rcx-CPU_STACKS_BYTES]
    mov [rip+other_stacks], rax

    # copy the trampoline through the direct map
    movabs rdi, DIRECT_BASE
    add rdi, TRAMPOLINE
    lea rsi, [rip+.Lsmp_trampoline]     # its physical address
    mov rsi, [rsi]
    movabs rax, DIRECT_BASE
    add rsi, rax
    mov ecx, 128
    rep movsb

    mov edi, ICR_INIT_ALL
    call apic_broadcast
    mov ecx, INIT_SPINS                 # the manual says 10 ms; TCG and our machine need less
.Lsmp_after_init:
    pause
    dec ecx
    jnz .Lsmp_after_init

    mov ebx, SIPI_TRIES
.Lsmp_sipi:
    mov edi, ICR_SIPI_ALL
    call apic_broadcast
    mov r12d, SIPI_SPINS
.Lsmp_wait:
    mov rax, [rip+cpus_online]
    cmp rax, [rip+cpu_count]
    jae .Lsmp_done
    pause
    dec r12d
    jnz .Lsmp_wait
    dec ebx                             # a second SIPI is ignored by a CPU that has started
    jnz .Lsmp_sipi
    lea rdi, [rip+.Lsmp_missing]
    call panic_text
.Lsmp_done:
    pop r12
    pop rbx
    ret

# u64 fw_cfg_cpus(void)
# Number of CPUs by QEMU's fw_cfg (docs/specs/fw_cfg: key 5, 16 bits little endian), 1 to MAX_CPUS.
fw_cfg_cpus:
    mov edx, FW_CFG_SELECT
    mov eax, FW_CFG_NB_CPUS
    out dx, ax
    mov edx, FW_CFG_DATA
    in al, dx
    movzx ecx, al
    in al, dx
    cmp al, 0                           # no such device reads as ones
    jne .Lfw_one
    cmp ecx, 1
    jb .Lfw_one
    cmp ecx, MAX_CPUS
    ja .Lfw_one
    mov eax, ecx
    ret
.Lfw_one:
    mov eax, 1
    ret

.section .rodata
.p2align 3
.Lsmp_trampoline:
    .quad trampoline
.Lsmp_missing:
    .asciz "a CPU did not start"

.data
.p2align 3
cpu_count:                              # CPUs of this machine
    .quad 1
cpus_online:                            # CPUs that run in the high half
    .quad 1
other_stacks:                           # CPU n's stacks are n * CPU_STACKS_BYTES from here
    .quad 0
