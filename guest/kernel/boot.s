# Entry of the first CPU: 32-bit protected mode, paging off, to 64-bit mode in the high half.
#
# SDM 9.8.5 (initialising IA-32e mode), 4.5 (4-level paging). The loader (QEMU -kernel, or the
# machine's own) follows the PVH note: flat 32-bit segments, interrupts off, RAM below 1 MiB free.
#
# This file comes right after defs.s, so its labels begin each section, and the sections are in the
# order .text .rodata .data .bss: mem.s reads their bounds from these labels.

.section .note
.p2align 2
    .long 4                             # bytes of the name
    .long 8                             # bytes of the descriptor
    .long 18                            # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad _start

.text
text_start:
.section .rodata
rodata_start:
.data
data_start:
.bss
bss_start:

.section .boot
.code32
.globl _start
_start:                                 # 0x100000
    jmp .Lboot_start32
.p2align 4, 0x90
boot_gdt:                               # 0x100010 = BOOT_GDT
    .quad 0
    .quad 0x00af9b000000ffff            # 0x08 64-bit code
    .quad 0x00cf93000000ffff            # 0x10 data
    .quad 0x00cf9b000000ffff            # 0x18 32-bit code
boot_gdtr:                              # 0x100030 = BOOT_GDTR
    .short 31
    .long boot_gdt
    .short 0
    .quad 0
.equ BOOT_GDT,  0x100010
.equ BOOT_GDTR, 0x100030

.equ PML4_DIRECT, 2184                  # 8 * 273
.equ PML4_STACK,  3216                  # 8 * 402
.equ PML4_KERNEL, 4088                  # 8 * 511
.equ PDPT_KERNEL, 4080                  # 8 * 510
.equ PDPT_APIC,   4088                  # 8 * 511
.equ LOW_PDPT_RW,    0x2003
.equ LOW_PD_RW,      0x3003
.equ KERNEL_PDPT_RW, 0x4003
.equ KERNEL_PD_RW,   0x5003
.equ KERNEL_PT_RW,   0x6003
.equ DIRECT_PDPT_RW, 0x7003
.equ DIRECT_PD_RW,   0x9003
.equ APIC_PD_RW,     0xa003
.equ APIC_PT_RW,     0xb003
.equ STACK_PDPT_RW,  0xc003
.equ STACK_PD_RW,    0xd003
.equ STACK_PT_RW,    0xe003
.equ APIC_PTE_LOW,   0xfee0011b         # G PCD PWT W P
.equ NX_HIGH,        0x80000000         # bit 63 in an entry's high half
.equ TABLES_DWORDS,  0x3800             # 0x1000 to 0xf000

.Lboot_start32:
    cli
    cld
    xor eax, eax
    mov edi, KERNEL_PML4
    mov ecx, TABLES_DWORDS
    rep stosd

    # upper levels
    mov edi, KERNEL_PML4
    mov dword ptr [edi], LOW_PDPT_RW    # identity, until all CPUs are up
    mov dword ptr [edi+PML4_DIRECT], DIRECT_PDPT_RW
    mov dword ptr [edi+PML4_STACK], STACK_PDPT_RW
    mov dword ptr [edi+PML4_KERNEL], KERNEL_PDPT_RW
    mov edi, LOW_PDPT
    mov dword ptr [edi], LOW_PD_RW
    mov edi, DIRECT_PDPT
    mov dword ptr [edi], DIRECT_PD_RW
    mov edi, STACK_PDPT
    mov dword ptr [edi], STACK_PD_RW
    mov edi, STACK_PD
    mov dword ptr [edi], STACK_PT_RW    # one table covers the whole stack area
    mov edi, KERNEL_PDPT
    mov dword ptr [edi+PDPT_KERNEL], KERNEL_PD_RW
    mov dword ptr [edi+PDPT_APIC], APIC_PD_RW
    mov edi, KERNEL_PD
    mov dword ptr [edi], KERNEL_PT_RW
    mov edi, APIC_PD
    mov dword ptr [edi], APIC_PT_RW
    mov edi, APIC_PT
    mov dword ptr [edi], APIC_PTE_LOW
    mov dword ptr [edi+4], NX_HIGH

    # 64 MiB twice: identity (executable), direct map (global, NX)
    mov edi, LOW_PD
    mov esi, DIRECT_PD
    mov eax, 0x83                       # PS W P
    mov ecx, 32
.Lboot_big:
    mov [edi], eax
    mov [esi], eax
    or dword ptr [esi], PTE_G
    mov dword ptr [esi+4], NX_HIGH
    add eax, 0x200000
    add edi, 8
    add esi, 8
    dec ecx
    jnz .Lboot_big

    # physical 0 to 2 MiB at KERNEL_BASE; mem.s narrows the permissions
    mov edi, KERNEL_PT
    mov eax, 3
    mov ecx, 512
.Lboot_small:
    mov [edi], eax
    add eax, PAGE_SIZE
    add edi, 8
    dec ecx
    jnz .Lboot_small

    mov esi, BOOT_GDTR
    lgdt [esi]
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
    .byte 0xea                          # jmp far 0x08:boot64
    .long boot64
    .short KERNEL_CS

.code64
boot64:
    mov eax, KERNEL_DS
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    lea rax, [rip+.Lboot_high]
    mov rax, [rax]
    jmp rax
.p2align 3, 0x90
.Lboot_high:
    .quad boot_high

# The first CPU in the high half. Never returns.
.text
boot_high:
    lea rsp, [rip+first_stacks]
    add rsp, CPU_STACKS_BYTES
    call kmain
.Lboot_hang:
    cli
    hlt
    jmp .Lboot_hang

.bss
.p2align 12
first_stacks:                           # the stacks of CPU 0
    .zero CPU_STACKS_BYTES
