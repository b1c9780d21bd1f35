# Descriptors: GDT and TSS per CPU, one IDT for all, interrupt stacks.
#
# SDM 3.5 (system descriptors), 6.14 (64-bit interrupt handling, IST), 7.7 (64-bit TSS).
# #DF always runs on IST 1 and NMI on IST 2. The #PF gate's IST index is a variable, pf_ist: 0 puts
# the frame where RSP points, 3 switches to a stack of its own.

.equ GDT_BYTES,     64
.equ GDT_SHIFT,     6
.equ TSS_BYTES,     128
.equ TSS_SHIFT,     7
.equ TSS_LIMIT,     103
.equ TSS_RSP0,      4
.equ TSS_IST1,      36
.equ TSS_IST2,      44
.equ TSS_IST3,      52
.equ TSS_IOMAP,     102
.equ GATE_INTERRUPT, 0x8e               # present, DPL 0, 64-bit interrupt gate
.equ GATE_USER,     0xee                # ... DPL 3

.text
# void desc_init(struct cpu *cpu)
# Load this CPU's GDT, TSS, IDT and GS base. Interrupts off; every CPU calls it once.
desc_init:
    push rbx
    push r12
    push r13
    mov rbx, rdi
    mov rcx, [rbx+CPU_ID]

    # TSS: interrupt stacks
    lea r12, [rip+tss_area]
    mov rax, rcx
    shl rax, TSS_SHIFT
    add r12, rax
    mov [rbx+CPU_TSS], r12
    lea rdx, [rip+first_stacks]
    test rcx, rcx
    jz .Ldesc_stacks
    imul rdx, rcx, CPU_STACKS_BYTES
    add rdx, [rip+other_stacks]
.Ldesc_stacks:
    add rdx, IST_BYTES
    mov [r12+TSS_IST1], rdx
    add rdx, IST_BYTES
    mov [r12+TSS_IST2], rdx
    add rdx, IST_BYTES
    mov [r12+TSS_IST3], rdx
    mov word ptr [r12+TSS_IOMAP], 104   # beyond the limit: no I/O bitmap

    # GDT: a copy of the template plus the TSS descriptor
    lea r13, [rip+gdt_area]
    mov rax, rcx
    shl rax, GDT_SHIFT
    add r13, rax
    lea rsi, [rip+gdt_template]
    mov rdi, r13
    mov ecx, 6
    rep movsq
    mov rax, r12
    mov rdx, r12
    and eax, 0xffffff
    shl rax, 16
    or rax, TSS_LIMIT
    movabs rcx, 0x890000000000           # present, available 64-bit TSS
    or rax, rcx
    shr rdx, 24
    movzx ecx, dl
    shl rcx, 56
    or rax, rcx
    mov [r13+48], rax
    mov rax, r12
    shr rax, 32
    mov [r13+56], rax

    sub rsp, 16
    mov word ptr [rsp+6], 63
    mov [rsp+8], r13
    lgdt [rsp+6]
    add rsp, 16
    push KERNEL_CS
    lea rax, [rip+.Ldesc_reload]
    push rax
    retfq
.Ldesc_reload:
    mov eax, KERNEL_DS
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov eax, TSS_SEL
    ltr ax

    mov ecx, MSR_GS_BASE
    mov rax, rbx
    mov rdx, rbx
    shr rdx, 32
    wrmsr
    mov ecx, MSR_KERNEL_GS_BASE
    xor eax, eax
    xor edx, edx
    wrmsr

    sub rsp, 16
    mov word ptr [rsp+6], 4095
    lea rax, [rip+idt]
    mov [rsp+8], rax
    lidt [rsp+6]
    add rsp, 16
    pop r13
    pop r12
    pop rbx
    ret

# void idt_init(void)
# Fill the IDT from idt_table. Boot CPU, before any desc_init.
idt_init:
    lea r8, [rip+idt_table]
.Lidt_next:
    mov rdi, [r8]
    cmp rdi, -1
    je .Lidt_pf
    mov esi, [r8+8]
    mov edx, [r8+12]
    mov rcx, [r8+16]
    call idt_set
    add r8, 24
    jmp .Lidt_next
.Lidt_pf:
    mov edi, [rip+pf_ist]

# void set_pf_ist(u32 ist)
# Choose the stack of the #PF handler: 0 as it is, IST_PF its own. Callable at any time.
set_pf_ist:
    mov [rip+pf_ist], edi
    mov esi, edi
    mov edi, VEC_PF
    mov edx, GATE_INTERRUPT
    lea rcx, [rip+trap_14]

# void idt_set(u64 vector, u32 ist, u32 type, void *handler)
# Write one gate. Keeps r8.
idt_set:
    shl edi, 4
    lea rax, [rip+idt]
    add rdi, rax
    mov [rdi], cx
    mov word ptr [rdi+2], KERNEL_CS
    mov [rdi+4], sil
    mov [rdi+5], dl
    shr rcx, 16
    mov [rdi+6], cx
    shr rcx, 16
    mov [rdi+8], ecx
    mov dword ptr [rdi+12], 0
    ret

.section .rodata
.p2align 3
gdt_template:
    .quad 0
    .quad 0x00af9b000000ffff            # 0x08 kernel code
    .quad 0x00cf93000000ffff            # 0x10 kernel data
    .quad 0x00cffb000000ffff            # 0x18 user 32-bit code, unused (SYSRET's base)
    .quad 0x00cff3000000ffff            # 0x20 user data
    .quad 0x00affb000000ffff            # 0x28 user code

.data
.p2align 3
pf_ist:                                 # IST index of the #PF gate; may be set in the image
    .long 0, 0

.bss
.p2align 12
idt:
    .zero 4096
tss_area:
    .zero 8192                          # MAX_CPUS * TSS_BYTES
gdt_area:
    .zero 4096                          # MAX_CPUS * GDT_BYTES
