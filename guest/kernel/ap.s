# Starting the other CPUs: INIT, start-up IPI, real mode to 64-bit mode.
#
# SDM 8.4 (multiple-processor initialisation), 10.6.1 (ICR), 9.9 (switching modes).
# All of them start at once from one broadcast, so the entry code uses registers only until each
# has found its own stack by its local APIC id. How many must come is asked from fw_cfg.

.equ INIT_SPINS, 20000
.equ SIPI_SPINS, 4000000
.equ SIPI_TRIES, 50

.section .boot
# Copied to TRAMPOLINE. Real mode, CS = TRAMPOLINE >> 4, no stack.
.code16
.p2align 6, 0x90
trampoline:
    cli
    cld
    xor ax, ax
    mov ds, ax
    mov bx, 0x8040                      # TRAMPOLINE + 0x40
    lgdt [bx]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea                    # jmp far 0x18:ap32
    .long ap32
    .short 0x18
.p2align 6, 0x90
trampoline_gdtr:                        # trampoline + 0x40
    .short 31
    .long BOOT_GDT
.p2align 4, 0x90
trampoline_end:

.code32
ap32:
    mov eax, KERNEL_DS
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov eax, CR4_KERNEL
    mov cr4, eax
    mov eax, KERNEL_PML4
    mov cr3, eax
    mov ecx, MSR_EFER
    mov eax, EFER_KERNEL
    xor edx, edx
    wrmsr
    mov eax, CR0_KERNEL
    mov cr0, eax
    .byte 0xea                          # jmp far 0x08:ap64
    .long ap64
    .short KERNEL_CS

.code64
ap64:
    xor eax, eax
    mov fs, eax
    mov gs, eax
    lea rax, [rip+.Lap_high_ptr]
    mov rax, [rax]
    jmp rax
.p2align 3, 0x90
.Lap_high_ptr:
    .quad ap_high

.text
# Another CPU in the high half, no stack yet. Never returns.
ap_high:
    movabs rax, APIC_BASE
    mov edi, [rax+APIC_ID]
    shr edi, 24
    lea eax, [rdi+1]
    imul rax, rax, CPU_STACKS_BYTES
    mov rsp, [rip+other_stacks]
    add rsp, rax
    jmp ap_main                         # main.s, rdi = CPU index

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
