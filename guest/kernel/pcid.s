# Process-context identifiers, as Linux has them with page-table isolation: no kernel page is global,
# each process's address space has a PCID, and changing address space drops nothing. Off unless the
# machine's policy asks for it (hyper.s, BOOT).
#
# SDM 4.10.1 (PCIDs), 4.10.4.1 (what INVPCID and MOV to CR3 drop). Linux: arch/x86/mm/tlb.c. An INVLPG
# then drops a kernel page for the current PCID alone; whoever changed the page has to drop it for all
# (Linux: flush_tlb_one_kernel and cpu_tlbstate.invalidate_other).

.equ CR4_PCIDE_BIT, 17
.equ CR3_NOFLUSH_BIT, 63
.equ PTE_G_BIT,     8
.equ INVPCID_ALL_GLOBAL, 2              # everything, global pages too
.equ INVPCID_ALL,   3                   # everything but global pages

.text
# void pcid_boot(void)
# Boot CPU, before any other calls pcid_init: make every kernel page not global.
pcid_boot:
    mov edi, KERNEL_PT
    call .Lpcid_table
    mov edi, DIRECT_PD
    call .Lpcid_table
    mov edi, APIC_PT
# Clear G in the 512 entries of the table at physical rdi.
.Lpcid_table:
    movabs rax, DIRECT_BASE
    add rdi, rax
    mov ecx, 512
.Lpcid_entry:
    lock btr qword ptr [rdi], PTE_G_BIT # other CPUs' walkers set A and D meanwhile
    add rdi, 8
    dec ecx
    jnz .Lpcid_entry
    ret

# void pcid_init(void)
# Each CPU, interrupts off, on the kernel's own page tables (whose PCID is 0).
pcid_init:
    call tlb_flush_all                  # the global entries from before pcid_boot
    mov rax, cr4
    bts rax, CR4_PCIDE_BIT
    mov cr4, rax
    mov dword ptr [rip+pcid_on], 1
    ret

# void pcid_load(struct thread *t)
# Load its address space, dropping nothing: CR3 bit 63. PCID 0 is the kernel threads'; a process has that
# of its place in threads[], plus 1, which is unique while it lives. The first time that this CPU runs
# another process in that place, the last one's entries are dropped. Interrupts off. Changes rax rcx rdx.
pcid_load:
    mov rcx, [rdi+T_CR3]
    cmp rcx, KERNEL_PML4
    je .Lpcid_keep
    lea rax, [rip+threads]
    mov rdx, rdi
    sub rdx, rax
    shr rdx, THREAD_SHIFT
    lea rcx, [rcx+rdx+1]
    THIS_CPU
    mov rax, [rax+CPU_ID]
    shl rax, PCID_OWNERS_SHIFT
    lea rdx, [rax+rdx*8]
    lea rax, [rip+pcid_owners]
    add rdx, rax
    mov rax, [rdi+T_ID]
    cmp rax, [rdx]
    je .Lpcid_keep
    mov [rdx], rax
    mov cr3, rcx
    ret
.Lpcid_keep:
    bts rcx, CR3_NOFLUSH_BIT
    mov cr3, rcx
    ret

# void pcid_invalidate_others(void)
# After INVLPG of kernel pages: drop them for the other PCIDs too. Keeps all but rax.
pcid_invalidate_others:
    cmp dword ptr [rip+pcid_on], 0
    je .Lpcid_end
    mov eax, INVPCID_ALL
    invpcid rax, [rip+pcid_nothing]
.Lpcid_end:
    ret

.section .rodata
.p2align 4
pcid_nothing:                           # an INVPCID descriptor that names nothing
    .quad 0, 0
.data
.p2align 2
pcid_on:                                # 1 once CPUs use PCIDs
    .long 0
.bss
.p2align 3
pcid_owners:                            # MAX_CPUS * MAX_THREADS thread ids: who had a PCID last
    .zero 32768
