# Whether INVLPG drops a global translation while PCIDs are on: the rules INVLPG_GLOBAL and GLOBAL_SERVES_ANY_PCID
# (SDM 4.10.2.4, 4.10.4.1). Some hybrid processors have an erratum by which it does not.
#
# A global page is accessed under PCID 1, and its entry exchanged. INVLPG follows under PCID 1, or under PCID 2; the page is
# read there, and under PCID 1 again. One read of the first frame refutes INVLPG_GLOBAL. That such a read goes by what is
# cached without the INVLPG, under PCID 2, too, is the control; and where it never does under PCID 2, though under PCID 1,
# GLOBAL_SERVES_ANY_PCID, as a description of this processor, is refuted.
#
# Where CR4.PCIDE cannot be set there are no trials. QEMU's TCG lets it be set and does nothing; so CR3 is not loaded with bit
# 63, which it would take for a part of the address.

.equ TRIALS,        64                  # of each kind
.equ CR4_PCIDE_BIT, 17
.equ FIRST_PCID,    0x1001              # KERNEL_PML4 and PCID 1: drops what is not global of that PCID
.equ SECOND_PCID,   0x1002
.equ ENTRY_GLOBAL,  0x8000000000000163  # NX G D A W P

.macro UNDER pcid
    mov eax, \pcid
    mov cr3, rax
.endm

.text
probe_main:
    push rbx
    push r12
    push r13
    push r14
    push r15
    xor r12d, r12d                      # reads of the first frame: without INVLPG, under PCID 1
    xor r13d, r13d                      # without, under PCID 2
    xor r15d, r15d                      # behind INVLPG
    xor r14d, r14d
    call pcids_on
    jc .Lglob_verdict
    mov r14d, TRIALS
.Lglob_trial:
    call map_and_change
    mov r9, [rbx]
    cmp r9, WORD_A
    jne .Lglob_gone
    inc r12
.Lglob_gone:
    UNDER SECOND_PCID
    mov r9, [rbx]
    cmp r9, WORD_A
    jne .Lglob_other_gone
    inc r13
.Lglob_other_gone:
    call map_and_change
    invlpg [rbx]
    call look
    UNDER SECOND_PCID
    call look
    call map_and_change
    UNDER SECOND_PCID
    invlpg [rbx]
    call look
    UNDER FIRST_PCID
    call look
    dec r14d
    jnz .Lglob_trial
    UNDER FIRST_PCID
    mov r14d, TRIALS
    lea rdi, [rip+.Lglob_cached]
    mov rsi, r12
    mov edx, TRIALS
    call control
.Lglob_verdict:
    lea rdi, [rip+.Lglob_rule]
    mov rsi, r15
    lea rdx, [r14*4]                    # four reads a trial
    call rule_verdict
    lea rdi, [rip+.Lglob_any]
    mov rsi, r13
    mov rdx, r14
    call rule_verdict_none
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    ret

# Count in r15 if the page still has the first frame.
look:
    mov r9, [rbx]
    cmp r9, WORD_A
    jne .Lglob_new
    inc r15
.Lglob_new:
    ret

# Under PCID 1 the page is cached as global for the first frame, and its entry is for the second one.
map_and_change:
    UNDER FIRST_PCID
    FORGET
    UNDER SECOND_PCID
    invlpg [rbx]
    UNDER FIRST_PCID
    ENTRY rax, frame_a, ENTRY_GLOBAL
    mov [rdx], rax
    mov r9, [rbx]
    ENTRY rax, frame_b, ENTRY_GLOBAL
    BODY_TAKE
    ret

# Set CR4.PCIDE. CF = 1 if there is no such thing.
pcids_on:
    lea rbp, [rip+.Lglob_none]
    mov rax, cr4
    bts rax, CR4_PCIDE_BIT
    mov cr4, rax
    mov rax, cr4
    bt rax, CR4_PCIDE_BIT
    cmc
    jmp .Lglob_tried
.Lglob_none:
    stc
.Lglob_tried:
    mov ebp, 0
    ret

.section .rodata
probe_name:
    .asciz "global-invlpg"
.Lglob_cached:
    .asciz "a global page outlives its entry"
.Lglob_rule:
    .asciz "INVLPG_GLOBAL"
.Lglob_any:
    .asciz "GLOBAL_SERVES_ANY_PCID"
