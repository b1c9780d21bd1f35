# What a fill that no instruction asked for does to Accessed: the mode `speculation` (SDM 4.10.2.3; Stevens, June 2026).
#
# A page is mapped, something is done that may make a CPU fetch its translation though no instruction accesses it, its entry
# is exchanged for that of another frame, and only then it is read. A CPU that reads the first frame has cached the first
# entry by itself; what the exchange has found says whether A had been set.
#
#   the entry had A, the read was stale              that is allowed to all but `none`
#   A was clear, and is set though nobody accessed   `sets-accessed` alone does that
#   A was clear and still is, the read was stale     `keeps-accessed-clear` alone does that: Stevens's claim
#
# So an event of one sort refutes all the others. None at all refutes nothing.
#
# On one CPU; and CPU 0 exchanges while CPU 1 speculates and reads, as where a page is freed without a shootdown because A
# is clear.

.equ TRIALS,        48                  # of each kind, by each gadget, on each CPU
.equ GADGETS,       4
.equ COUNTED,       3                   # those of which the verdicts are
.equ QUIET_SPINS,   600                 # in which nothing is done
.equ TRAININGS,     32
.equ CELL_BYTES,    24
.equ CELL_TRIALS,   0
.equ CELL_MARKED,   8                   # A found set
.equ CELL_STALE,    16                  # the first frame read, A as it was

.text
probe_main:
    push rbx
    push r12
    push r13
    call controls
    lea r12, [rip+cells]
    lea r13, [rip+trial_own]
    call measure
    cmp dword ptr [rip+second_here], 0
    je .Lspec_verdict
    lea r13, [rip+trial_other]
    call measure
.Lspec_verdict:
    call sum_up
    lea rdi, [rip+.Lspec_none]
    mov rsi, [rip+sums+CELL_STALE]      # any event
    add rsi, [rip+sums+CELL_BYTES+CELL_MARKED]
    add rsi, [rip+sums+CELL_BYTES+CELL_STALE]
    mov rdx, [rip+sums+CELL_TRIALS]
    add rdx, [rip+sums+CELL_BYTES+CELL_TRIALS]
    call mode_verdict
    lea rdi, [rip+.Lspec_needs]
    mov rsi, [rip+sums+CELL_BYTES+CELL_MARKED]
    add rsi, [rip+sums+CELL_BYTES+CELL_STALE]
    mov rdx, [rip+sums+CELL_BYTES+CELL_TRIALS]
    call mode_verdict
    lea rdi, [rip+.Lspec_sets]
    mov rsi, [rip+sums+CELL_BYTES+CELL_STALE]
    mov rdx, [rip+sums+CELL_BYTES+CELL_TRIALS]
    call mode_verdict
    lea rdi, [rip+.Lspec_keeps]
    mov rsi, [rip+sums+CELL_BYTES+CELL_MARKED]
    mov rdx, [rip+sums+CELL_BYTES+CELL_TRIALS]
    call mode_verdict
    pop r13
    pop r12
    pop rbx
    ret

# Trials of r13, first with A, then with A clear, by every gadget, into the cells from r12 on, which it moves.
measure:
    push r14
    push r15
    mov dword ptr [rip+with_accessed], 1
.Lspec_kind:
    xor r15d, r15d
.Lspec_gadget:
    lea rax, [rip+gadgets]
    mov rax, [rax+r15*8]
    mov [rip+gadget], rax
    mov r14d, TRIALS
.Lspec_trial:
    call r13
    call count
    dec r14d
    jnz .Lspec_trial
    call say_cell
    add r12, CELL_BYTES
    inc r15d
    cmp r15d, GADGETS
    jb .Lspec_gadget
    dec dword ptr [rip+with_accessed]
    jns .Lspec_kind
    pop r15
    pop r14
    ret

# Count a trial, r8 the entry that the exchange has found and r9 the word read, in the cell at r12. A trial in which A
# was set by nobody is no stale one as well, whatever it read.
count:
    inc qword ptr [r12+CELL_TRIALS]
    cmp dword ptr [rip+with_accessed], 0
    jne .Lspec_read
    test r8d, PTE_A
    jz .Lspec_read
    inc qword ptr [r12+CELL_MARKED]
    ret
.Lspec_read:
    cmp r9, WORD_A
    jne .Lspec_counted
    inc qword ptr [r12+CELL_STALE]
.Lspec_counted:
    ret

# The trials by gadgets that count and CPUs, into `sums`: first those with A, then those without. A prefetch is an
# instruction that asks, so it is shown and not counted.
sum_up:
    lea rsi, [rip+cells]
    mov r8d, 2                          # CPUs
.Lspec_cpu:
    lea rdi, [rip+sums]
    mov ecx, 2                          # with A, without
.Lspec_half:
    mov edx, COUNTED
.Lspec_cell:
    mov rax, [rsi+CELL_TRIALS]
    add [rdi+CELL_TRIALS], rax
    mov rax, [rsi+CELL_MARKED]
    add [rdi+CELL_MARKED], rax
    mov rax, [rsi+CELL_STALE]
    add [rdi+CELL_STALE], rax
    add rsi, CELL_BYTES
    dec edx
    jnz .Lspec_cell
    add rsi, (GADGETS-COUNTED)*CELL_BYTES
    add rdi, CELL_BYTES
    dec ecx
    jnz .Lspec_half
    dec r8d
    jnz .Lspec_cpu
    ret

# "on its own CPU, A set, by nothing: A set 0, stale 3 of 48"
say_cell:
    push rbx
    push r12
    lea rdi, [rip+.Lspec_own]
    lea rax, [rip+trial_own]
    cmp r13, rax
    je .Lspec_whose
    lea rdi, [rip+.Lspec_other]
.Lspec_whose:
    call print
    lea rdi, [rip+.Lspec_with]
    cmp dword ptr [rip+with_accessed], 0
    jne .Lspec_which
    lea rdi, [rip+.Lspec_without]
.Lspec_which:
    call print
    lea rdi, [rip+gadget_names]
    mov rdi, [rdi+r15*8]
    call print
    SAY .Lspec_marked
    mov rdi, [r12+CELL_MARKED]
    call print_dec
    SAY .Lspec_stale
    mov rdi, [r12+CELL_STALE]
    mov rsi, [r12+CELL_TRIALS]
    call of_trials
    SAY probe_newline
    pop r12
    pop rbx
    ret

# rax = the first entry of a trial. Changes rcx
first_entry:
    cmp dword ptr [rip+with_accessed], 0
    je .Lspec_clear
    ENTRY rax, frame_a, ENTRY_USED
    ret
.Lspec_clear:
    ENTRY rax, frame_a, ENTRY_UNUSED
    ret

# A trial on this CPU: r8 = the entry that the exchange has found, r9 = the word read.
trial_own:
    FORGET
    call first_entry
    mov [rdx], rax
    call qword ptr [rip+gadget]
    mov ecx, QUIET_SPINS
    call spin
    ENTRY rax, frame_b, ENTRY_USED
    BODY_TAKEN
    ret

# The same where the second CPU speculates and reads. A phase is what has been done.
#
#   1  CPU 1 has nothing cached      3  CPU 1 has speculated
#   2  CPU 0 has mapped the page     then CPU 0 takes the entry away, tells, and CPU 1 reads
trial_other:
    mov qword ptr [rip+trial_phase], 0
    mov qword ptr [rip+told], 0
    FORGET
    lea rdi, [rip+speculate]
    call second_begin
    mov edi, 1
    call phase_wait
    call first_entry
    mov [rdx], rax
    mov edi, 2
    call phase_is
    mov edi, 3
    call phase_wait
    ENTRY rax, frame_b, ENTRY_USED
    lea rsi, [rip+told]
    BODY_TAKEN_0
    call second_wait
    mov r9, [rip+word_read]
    ret
speculate:
    movabs rbx, PROBED_PAGE
    invlpg [rbx]
    mov edi, 1
    call phase_is
    mov edi, 2
    call phase_wait
    call qword ptr [rip+gadget]
    mov ecx, QUIET_SPINS
    call spin
    mov edi, 3
    call phase_is
    lea rsi, [rip+told]
    BODY_TAKEN_1
    mov [rip+word_read], r9
    ret

# --- what may make a CPU fetch the translation of the page at rbx. They keep rbx, rdx and rsi.

by_nothing:
    ret
# Its neighbour is read line by line, up to its end.
by_neighbour:
    movabs rax, NEAR_PAGE
    mov ecx, 64
.Lspec_line:
    mov rdi, [rax]
    add rax, 64
    dec ecx
    jnz .Lspec_line
    ret
# A load behind a branch that is predicted to be taken as before, and is not: its flag comes late.
by_branch:
    mov dword ptr [rip+flag_no], 0
    clflush [rip+flag_no]
    mfence
    mov ecx, TRAININGS
.Lspec_train:
    movabs rax, KEPT_PAGE
    lea rdi, [rip+flag_yes]
    lea r10, [rip+flag_no]
    cmp ecx, 1
    cmove rax, rbx
    cmove rdi, r10
    cmp dword ptr [rdi], 0
    je .Lspec_mispredicted
    mov r11, [rax]
.Lspec_mispredicted:
    dec ecx
    jnz .Lspec_train
    ret
# Software prefetches.
by_prefetch:
    .byte 0x0f, 0x18, 0x0b              # prefetcht0 [rbx]
    .byte 0x0f, 0x0d, 0x0b              # prefetchw [rbx]
    ret
# For the controls: an access.
by_access:
    mov rdi, [rbx]
    ret

# An access makes a translation that outlives its entry; INVLPG ends that; and it sets A. Without these nothing that is
# counted above could be seen, or would mean anything.
controls:
    push r12
    push r13
    push r14
    xor r12d, r12d
    xor r13d, r13d
    lea rax, [rip+by_access]
    mov [rip+gadget], rax
    mov r14d, TRIALS
.Lspec_control:
    mov dword ptr [rip+with_accessed], 0
    call trial_own
    cmp r9, WORD_A
    jne .Lspec_fresh
    inc r12d
.Lspec_fresh:
    bt r8d, 5                           # PTE_A
    adc r13d, 0
    dec r14d
    jnz .Lspec_control
    lea rdi, [rip+.Lspec_control_stale]
    mov esi, r12d
    mov edx, TRIALS
    call control
    lea rdi, [rip+.Lspec_control_marked]
    mov esi, r13d
    mov edx, TRIALS
    call control
    xor r12d, r12d
    mov r14d, TRIALS
.Lspec_invalidated:
    FORGET
    call first_entry
    mov [rdx], rax
    mov rdi, [rbx]
    ENTRY rax, frame_b, ENTRY_USED
    BODY_TAKE
    invlpg [rbx]
    mov r9, [rbx]
    cmp r9, WORD_A
    jne .Lspec_dropped
    inc r12d
.Lspec_dropped:
    dec r14d
    jnz .Lspec_invalidated
    lea rdi, [rip+.Lspec_control_invlpg]
    mov esi, r12d
    mov edx, TRIALS
    call control_none
    pop r14
    pop r13
    pop r12
    ret

.section .rodata
probe_name:
    .asciz "speculation"
.Lspec_own:
    .asciz "on its own CPU, "
.Lspec_other:
    .asciz "on another CPU, "
.Lspec_with:
    .asciz "A set, "
.Lspec_without:
    .asciz "A clear, "
.Lspec_marked:
    .asciz ": A set by nobody "
.Lspec_stale:
    .asciz ", stale "
.Lspec_nothing:
    .asciz "by nothing"
.Lspec_prefetch:
    .asciz "by prefetch (not counted)"
.Lspec_neighbour:
    .asciz "by neighbour"
.Lspec_branch:
    .asciz "by branch"
.Lspec_control_stale:
    .asciz "stale behind an access"
.Lspec_control_marked:
    .asciz "A set by an access"
.Lspec_control_invlpg:
    .asciz "stale behind INVLPG"
.Lspec_none:
    .asciz "speculation=none"
.Lspec_needs:
    .asciz "speculation=needs-accessed"
.Lspec_sets:
    .asciz "speculation=sets-accessed"
.Lspec_keeps:
    .asciz "speculation=keeps-accessed-clear"
.p2align 3
gadgets:
    .quad by_nothing, by_neighbour, by_branch, by_prefetch
gadget_names:
    .quad .Lspec_nothing, .Lspec_neighbour, .Lspec_branch, .Lspec_prefetch

.data
.p2align 6
flag_no:
    .zero 64
flag_yes:
    .long 1
with_accessed:                          # 1: the first entry has A
    .long 0
.p2align 3
gadget:
    .quad 0
told:                                   # CPU 0 has taken the entry
    .quad 0
word_read:
    .quad 0

.bss
.p2align 3
cells:                                  # own CPU, then the other: with A, then without: by gadget
    .zero 384                           # 16 * CELL_BYTES
sums:
    .zero 48
