# A CPU that is started: real mode to 64-bit mode in the high half.
#
# SDM 8.4 (multiple-processor initialisation), 9.9 (switching modes).
# Who starts one (ap.s) copies this to TRAMPOLINE and has stacks for it. Any number may come at once, so registers only
# are used until each has found its own stack by its local APIC id.

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

