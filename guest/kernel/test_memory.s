# Self-test: Accessed and Dirty bits, CR0.WP, frames.
#
# TEST_PAGE is a page of the image's 2 MiB window that the image does not reach; its entry is the
# last of KERNEL_PT. The tests put their own frames there.

.equ TEST_PAGE,     0xffffffff801ff000
.equ TEST_PTE,      0xffff888000006ff8  # DIRECT_BASE + KERNEL_PT + 511 * 8
.equ PTE_AD,        0x60                # D A
.equ PTE_KREADONLY, 0x8000000000000101

.text
# void test_map(u64 pte)
# Put that entry at TEST_PAGE; this CPU forgets the old one.
test_map:
    movabs rax, TEST_PTE
    mov [rax], rdi
    movabs rax, TEST_PAGE
    invlpg [rax]
    ret

# u64 test_pte_ad(void)
# The A and D bits of TEST_PAGE's entry.
test_pte_ad:
    movabs rax, TEST_PTE
    mov eax, [rax]
    and eax, PTE_AD
    ret

# A load sets A alone, a store sets A and D, and neither is set before.
test_accessed_dirty:
    push rbx
    push r12
    call frame_alloc
    mov r12, rax
    movabs rdi, PTE_KDATA
    or rdi, rax
    call test_map
    xor ebx, ebx
    call test_pte_ad
    test eax, eax
    jnz .Lad_end
    movabs rcx, TEST_PAGE
    mov rdx, [rcx]
    call test_pte_ad
    cmp eax, PTE_A
    jne .Lad_end
    movabs rcx, TEST_PAGE
    mov [rcx+8], rdx
    call test_pte_ad
    cmp eax, PTE_AD
    jne .Lad_end
    mov ebx, TEST_PASS
.Lad_end:
    jmp test_page_release

# The same with a store first: it sets both.
test_dirty_at_once:
    push rbx
    push r12
    call frame_alloc
    mov r12, rax
    movabs rdi, PTE_KDATA
    or rdi, rax
    call test_map
    movabs rcx, TEST_PAGE
    mov [rcx], rcx
    xor ebx, ebx
    call test_pte_ad
    cmp eax, PTE_AD
    jne test_page_release
    mov ebx, TEST_PASS
# Unmap TEST_PAGE, free its frame r12, return ebx. Only this CPU has touched it.
test_page_release:
    xor edi, edi
    call test_map
    mov rdi, r12
    call frame_free
    mov eax, ebx
    pop r12
    pop rbx
    ret

# CR0.WP = 0: the kernel writes a read-only page; WP = 1 again: #PF.
test_write_protect:
    push rbx
    push r12
    call frame_alloc
    mov r12, rax
    movabs rdi, PTE_KREADONLY
    or rdi, rax
    call test_map
    xor ebx, ebx
    cli                                 # no other thread may run with WP clear
    mov rax, cr0
    btr rax, CR0_WP_BIT
    mov cr0, rax
    movabs rcx, TEST_PAGE
    mov qword ptr [rcx], 77
    bts rax, CR0_WP_BIT
    mov cr0, rax
    sti
    movabs rcx, TEST_PAGE
    cmp qword ptr [rcx], 77
    jne test_page_release
    lea rdi, [rip+do_write_test_page]
    mov esi, VEC_PF
    mov edx, 3                          # W P
    xor ecx, ecx
    movabs r8, TEST_PAGE
    call expect_fault
    mov ebx, eax
    jmp test_page_release
do_write_test_page:
    movabs rcx, TEST_PAGE
    mov qword ptr [rcx], 78
    ret

# P 1 to 0 with INVLPG: the next access faults.
test_unmap:
    push rbx
    push r12
    call frame_alloc
    mov r12, rax
    movabs rdi, PTE_KDATA
    or rdi, rax
    call test_map
    movabs rcx, TEST_PAGE
    mov [rcx], rcx
    xor edi, edi
    call test_map
    lea rdi, [rip+do_write_test_page]
    mov esi, VEC_PF
    mov edx, PTE_W
    xor ecx, ecx
    movabs r8, TEST_PAGE
    call expect_fault
    mov ebx, eax
    jmp test_page_release

# A freed frame is the next one handed out, and zeroed.
test_frames:
    push rbx
    push r12
    call frame_alloc
    mov r12, rax
    movabs rcx, DIRECT_BASE
    mov [rcx+rax+8], rax
    mov rdi, rax
    call frame_free
    call frame_alloc
    xor ebx, ebx
    cmp rax, r12
    jne test_page_release
    movabs rcx, DIRECT_BASE
    cmp qword ptr [rcx+rax], 0
    jne test_page_release
    cmp qword ptr [rcx+rax+8], 0
    jne test_page_release
    mov ebx, TEST_PASS
    jmp test_page_release
