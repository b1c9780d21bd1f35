# Whether entries that point to tables are cached, and what INVLPG of another page does to them: the rules STRUCTURE_CACHES and
# INVLPG_STRUCTURE_CACHES (SDM 4.10.3.1, 4.10.4.1).
#
# A PDE points to a table. One page of it is accessed, so that the PDE is cached; the PDE is changed to another table, which
# maps a second page to another frame; the first table maps it only after that, so that nothing of it can have been cached;
# the second page is read. The frame of the first table shows that the PDE was cached. The same with INVLPG of a page
# elsewhere, behind the change of the PDE: then it must not be.
#
# STRUCTURE_CACHES is a permission: where no read shows the cached PDE, this processor has none in these trials, and the rule,
# as a description of it, is refuted. One stale read behind INVLPG refutes INVLPG_STRUCTURE_CACHES.

.equ TRIALS,        64
.equ REGION,        0xffffc90000200000  # of the second PDE below STACK_AREA
.equ REGION_ENTRY,  0xffff88800000d008  # DIRECT_BASE + STACK_PD + 8
.equ TABLE_USED,    0x23                # A W P

.text
probe_main:
    push rbx
    push r12
    push r13
    push r14
    push r15
    call tables_fill
    xor r13d, r13d                      # second pages found through the first table
    xor r15d, r15d                      # and behind INVLPG
    mov r14d, TRIALS
.Lstruct_trial:
    call point_away
    call map_late
    mov rax, [rbx+PAGE_SIZE]
    cmp rax, WORD_A
    jne .Lstruct_fresh
    inc r13
.Lstruct_fresh:
    call point_away
    movabs rax, KEPT_PAGE
    invlpg [rax]
    call map_late
    mov rax, [rbx+PAGE_SIZE]
    cmp rax, WORD_A
    jne .Lstruct_dropped
    inc r15
.Lstruct_dropped:
    dec r14d
    jnz .Lstruct_trial
    call controls
    lea rdi, [rip+.Lstruct_rule]
    mov rsi, r13
    mov edx, TRIALS
    call rule_verdict_none
    lea rdi, [rip+.Lstruct_invlpg]
    mov rsi, r15
    mov edx, TRIALS
    call rule_verdict
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    ret

# The PDE has been cached for the first table, by an access to the first page, and points to the second one. rbx = REGION.
point_away:
    call point_first
    mov rax, [rbx]
    ENTRY rax, table_second, TABLE_USED
    mov [rdx], rax
    ret
# The PDE points to the first table, which does not map the second page, and nothing is cached.
point_first:
    mov qword ptr [rip+table_first+8], 0
    movabs rbx, REGION
    movabs rdx, REGION_ENTRY
    ENTRY rax, table_first, TABLE_USED
    mov [rdx], rax
    invlpg [rbx]
    invlpg [rbx+PAGE_SIZE]
    ret

# What each table maps: the first page to one frame, the second page to frame_a, once it is there, or frame_b.
tables_fill:
    ENTRY rax, frame_kept, ENTRY_USED
    mov [rip+table_first], rax
    mov [rip+table_second], rax
    ENTRY rax, frame_b, ENTRY_USED
    mov [rip+table_second+8], rax
    ret
map_late:
    ENTRY rax, frame_a, ENTRY_USED
    mov [rip+table_first+8], rax
    ret

# The second page, once it has been accessed itself, outlives the PDE.
controls:
    xor r12d, r12d
    mov r14d, TRIALS
.Lstruct_control:
    call point_first
    call map_late
    mov rax, [rbx+PAGE_SIZE]
    ENTRY rax, table_second, TABLE_USED
    mov [rdx], rax
    mov rax, [rbx+PAGE_SIZE]
    cmp rax, WORD_A
    jne .Lstruct_walked
    inc r12d
.Lstruct_walked:
    dec r14d
    jnz .Lstruct_control
    lea rdi, [rip+.Lstruct_cached]
    mov esi, r12d
    mov edx, TRIALS
    jmp control

.section .rodata
probe_name:
    .asciz "structure-caches"
.Lstruct_cached:
    .asciz "a page accessed before outlives its PDE"
.Lstruct_rule:
    .asciz "STRUCTURE_CACHES"
.Lstruct_invlpg:
    .asciz "INVLPG_STRUCTURE_CACHES"

.bss
.p2align 12
table_first:
    .zero PAGE_SIZE
table_second:
    .zero PAGE_SIZE
