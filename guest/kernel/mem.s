# Memory: frames, page-table walk, section permissions, kernel stacks, user address spaces.
#
# SDM 4.5 (4-level paging), 4.6 (access rights), 4.10.5 (what must precede the reuse of a frame or
# an address). Kernel-stack leaves are installed with A and D clear and G set (pcid.s: without G).

.text
# void mem_init(void)
# Give the image its permissions: text R-X, rodata R, the rest RW. Boot CPU, before the others.
mem_init:
    movabs rdi, DIRECT_BASE
    add rdi, KERNEL_PT
    xor esi, esi                        # physical address
    movabs r8, KERNEL_BASE
    lea r9, [rip+text_start]
    sub r9, r8
    lea r10, [rip+rodata_start]
    sub r10, r8
    lea r11, [rip+data_start]
    sub r11, r8
.Lmem_page:
    xor eax, eax                        # below the image: not mapped
    cmp rsi, r9
    jb .Lmem_set
    mov eax, PTE_KTEXT
    cmp rsi, r10
    jb .Lmem_or
    movabs rax, PTE_KRODATA
    cmp rsi, r11
    jb .Lmem_or
    movabs rax, PTE_KDATA
.Lmem_or:
    or rax, rsi
.Lmem_set:
    mov [rdi], rax
    add rdi, 8
    add rsi, PAGE_SIZE
    cmp rsi, POOL_START
    jb .Lmem_page
    jmp tlb_flush_all

# u64 frame_alloc(void)
# A zeroed frame's physical address. Panics when there is none.
frame_alloc:
    push rbx
    push r12
    lea rdi, [rip+frame_lock]
    call spin_lock_irq
    mov r12, rax
    mov rbx, [rip+frame_list]
    test rbx, rbx
    jz .Lframe_bump
    movabs rcx, DIRECT_BASE
    mov rcx, [rcx+rbx]                  # the first word of a free frame links to the next
    mov [rip+frame_list], rcx
    jmp .Lframe_got
.Lframe_bump:
    mov rbx, [rip+frame_next]
    cmp rbx, RAM_END
    jae .Lframe_none
    add qword ptr [rip+frame_next], PAGE_SIZE
.Lframe_got:
    lea rdi, [rip+frame_lock]
    mov rsi, r12
    call spin_unlock_irq
    movabs rdi, DIRECT_BASE
    add rdi, rbx
    mov ecx, 512
    xor eax, eax
    rep stosq
    mov rax, rbx
    pop r12
    pop rbx
    ret
.Lframe_none:
    lea rdi, [rip+.Lmem_text_none]
    call panic_text

# u64 frames_reserve(u64 count)
# The physical address of so many frames in a row, for good. Boot CPU, before the others; panics when there
# are not so many.
frames_reserve:
    mov rax, [rip+frame_next]
    shl rdi, 12
    add rdi, rax
    cmp rdi, RAM_END
    ja .Lframe_none
    mov [rip+frame_next], rdi
    ret

# void frame_free(u64 frame)
# No CPU may hold a translation to it any more.
frame_free:
    push rbx
    push r12
    mov rbx, rdi
    lea rdi, [rip+frame_lock]
    call spin_lock_irq
    mov r12, rax
    mov rcx, [rip+frame_list]
    movabs rax, DIRECT_BASE
    mov [rax+rbx], rcx
    mov [rip+frame_list], rbx
    lea rdi, [rip+frame_lock]
    mov rsi, r12
    call spin_unlock_irq
    pop r12
    pop rbx
    ret

# u64 *pte_of(u64 pml4, u64 va)
# Address (in the direct map) of the leaf entry of a 4 KiB page, 0 if a level is missing or large.
pte_of:
    mov rax, rdi
    mov ecx, 39
    movabs r8, DIRECT_BASE
    movabs r9, PTE_FRAME_MASK
.Lpte_level:
    mov rdx, rsi
    shr rdx, cl
    and edx, 511
    and rax, r9
    add rax, r8
    lea rax, [rax+rdx*8]
    cmp ecx, 12
    je .Lpte_end
    mov rax, [rax]
    test eax, PTE_P
    jz .Lpte_none
    test eax, PTE_PS
    jnz .Lpte_none
    sub ecx, 9
    jmp .Lpte_level
.Lpte_none:
    xor eax, eax
.Lpte_end:
    ret

# u64 *kernel_pte(u64 va)
kernel_pte:
    mov rsi, rdi
    mov edi, KERNEL_PML4
    jmp pte_of

# u64 slot_alloc(void)
# The stack bottom of the lowest free slot, so that slots are reused at once. Panics if all taken.
slot_alloc:
    lea rdi, [rip+slot_lock]
    call spin_lock_irq
    mov rsi, rax
    mov rax, [rip+slots_free]
    bsf rcx, rax
    jz .Lslot_none
    btr rax, rcx
    mov [rip+slots_free], rax
    call spin_unlock_irq                # rdi = lock, rsi = flags
    mov rax, rcx
    shl rax, SLOT_SHIFT
    movabs rcx, STACK_AREA
    add rax, rcx
    add rax, GUARD_BYTES
    ret
.Lslot_none:
    lea rdi, [rip+.Lmem_text_slots]
    call panic_text

# void slot_free(u64 stack bottom)
slot_free:
    movabs rcx, STACK_AREA
    sub rdi, rcx
    mov rcx, rdi
    shr rcx, SLOT_SHIFT
    lea rdi, [rip+slot_lock]
    call spin_lock_irq
    mov rsi, rax
    mov rax, [rip+slots_free]
    bts rax, rcx
    mov [rip+slots_free], rax
    jmp spin_unlock_irq

# void stack_map(u64 stack bottom)
# Without a policy: back all four pages.
stack_map:
    push rbx
    push r12
    call kernel_pte
    mov rbx, rax
    mov r12d, 4
.Lstack_map_page:
    call frame_alloc
    movabs rcx, PTE_KDATA
    or rax, rcx
    mov [rbx], rax
    add rbx, 8
    dec r12d
    jnz .Lstack_map_page
    pop r12
    pop rbx
    ret

# void stack_unmap(u64 stack bottom)
# Without a policy: clear, invalidate everywhere, then free. Nobody runs on it; interrupts on.
stack_unmap:
    push rbx
    push r12
    push r13
    sub rsp, 32                         # the four frames
    mov r13, rdi
    call kernel_pte
    xor ecx, ecx
.Lstack_clear:
    xor edx, edx
    xchg rdx, [rax+rcx*8]               # atomic against the walker's A and D
    mov [rsp+rcx*8], rdx
    inc ecx
    cmp ecx, 4
    jb .Lstack_clear
    mov rdi, r13
    mov esi, 4
    call tlb_shootdown
    xor ebx, ebx
    movabs r12, PTE_FRAME_MASK
.Lstack_release:
    mov rdi, [rsp+rbx*8]
    and rdi, r12
    call frame_free
    inc ebx
    cmp ebx, 4
    jb .Lstack_release
    add rsp, 32
    pop r13
    pop r12
    pop rbx
    ret

# void user_space_create(struct thread *t)
# A PML4 with the kernel's upper half, and below it three pages: the page of .text that holds
# T_USER (mapped, not copied), data, stack. Its frames are noted in the thread.
user_space_create:
    push rbx
    push r12
    push r13
    mov rbx, rdi
    lea r12, [rbx+T_PML4]
    xor r13d, r13d
.Lspace_frame:
    call frame_alloc
    mov [r12+r13*8], rax
    inc r13d
    cmp r13d, USER_FRAMES
    jb .Lspace_frame
    mov rax, [r12]
    mov [rbx+T_CR3], rax

    movabs r8, DIRECT_BASE
    mov rdi, rax
    add rdi, r8
    add rdi, 2048
    mov esi, KERNEL_PML4
    add rsi, r8
    add rsi, 2048
    mov ecx, 256
    rep movsq

    mov rdi, [r12]                      # PML4[0] -> PDPT
    mov rax, [r12+8]
    or rax, PTE_TABLE
    mov [r8+rdi], rax
    mov rdi, [r12+8]                    # PDPT[0] -> PD
    mov rax, [r12+16]
    or rax, PTE_TABLE
    mov [r8+rdi], rax
    mov rdi, [r12+16]                   # PD[2] -> PT: 0x400000
    mov rax, [r12+24]
    or rax, PTE_TABLE
    add rdi, r8
    mov [rdi+16], rax
    mov rdi, [r12+24]
    add rdi, r8
    mov rax, [rbx+T_USER]
    and rax, -4096
    movabs rcx, KERNEL_BASE
    sub rax, rcx
    or rax, PTE_UTEXT
    mov [rdi], rax
    movabs rcx, PTE_UDATA
    mov rax, [r12+32]
    or rax, rcx
    mov [rdi+8], rax
    mov rax, [r12+40]
    or rax, rcx
    mov [rdi+16], rax
    pop r13
    pop r12
    pop rbx
    ret

# void user_space_free(struct thread *t)
# No CPU has its CR3 loaded: the thread's last switch loaded another one, which dropped its
# translations (they are not global); with PCIDs they stay, and are dropped before the PCID is used again.
user_space_free:
    push rbx
    push r12
    lea rbx, [rdi+T_PML4]
    xor r12d, r12d
.Lspace_release:
    mov rdi, [rbx+r12*8]
    call frame_free
    inc r12d
    cmp r12d, USER_FRAMES
    jb .Lspace_release
    pop r12
    pop rbx
    ret

.section .rodata
.Lmem_text_none:
    .asciz "out of frames"
.Lmem_text_slots:
    .asciz "out of stack slots"

.data
.p2align 3
frame_lock:
    .quad 0
frame_list:                             # freed frames, last first
    .quad 0
frame_next:                             # first frame never used
    .quad FREE_START
slot_lock:
    .quad 0
slots_free:                             # bit n: slot n is free
    .quad -1
