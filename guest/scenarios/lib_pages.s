# Litmus tests on pages of their own: programs that load and store through them, change their entries, and shoot down the
# TLBs of the other CPUs. vm/kernels/kstack/pages.py writes such programs from a text.
#
# SDM 4.5 (entries), 4.8 (accessed and dirty flags), 4.10.4 and 4.10.5 (invalidation), 10.6 (interprocessor interrupts).
#
# This goes before lib_litmus.s, and a scenario that links both provides besides what that asks for
#   void pages_set(void)            the entries at the beginning: P_SET lines and a ret
#   pages_begin, pages_end          labels around its programs
# An operation that may fault is put between P_TRY and P_DONE. It goes on behind P_DONE with bit n of r12 set if operation n
# has faulted, clear if not. So programs leave r12 and rbp alone; rax, rcx and rdx are for the macros.

.equ LITMUS_PREPARE, 1                  # lib_litmus.s: call litmus_prepare before the programs start
.equ PAGES_MOST,    5                   # pages that can be shot down
.equ PAGES_SENDERS, 4
.equ PAGES_SHIFT,   3                   # vector VEC_PAGES + (sender << PAGES_SHIFT) + number of the page
.equ VEC_PAGES,     0x60
.equ ICR_OTHERS,    0xc4000             # all but self, assert, delivery mode fixed (SDM figure 10-12)
.equ PAGES_LEFT,    0x800               # offset in litmus_words: a word a sender, answers that it still waits for

# register = address of the leaf entry of a page of the image. Changes rcx and flags
.macro P_ENTRY register, page
    lea \register, [rip+\page]
    shr \register, 12
    and \register, 511
    movabs rcx, DIRECT_BASE+KERNEL_PT
    lea \register, [rcx+\register*8]
.endm
# rax = an entry: the frame that a page of the image was loaded into, and flags. Changes rcx and flags
.macro P_VALUE page, flags
    lea rax, [rip+\page]
    and eax, 0x7fffffff                 # KERNEL_BASE maps physical 0
    movabs rcx, \flags
    or rax, rcx
.endm
# for pages_set: the entry of a page
.macro P_SET page, to, flags
    P_ENTRY rdx, \page
    P_VALUE \to, \flags
    mov [rdx], rax
.endm
.macro P_CLEAR page
    P_ENTRY rdx, \page
    mov qword ptr [rdx], 0
.endm
.macro P_TRY number, next
    lea rbp, [rip+\next]
    bts r12, \number
.endm
.macro P_DONE number, next
    btr r12, \number
\next:
.endm
# ask every other CPU to invalidate page `number`; `others` of them
.macro P_SEND sender, number, others
    mov qword ptr [r15+PAGES_LEFT+\sender*8], \others
    movabs rax, APIC_BASE
    mov dword ptr [rax+APIC_ICR_LO], ICR_OTHERS+VEC_PAGES+(\sender<<PAGES_SHIFT)+\number
.endm
# until all have
.macro P_WAIT sender
.Lwait\@:
    cmp qword ptr [r15+PAGES_LEFT+\sender*8], 0
    jne .Lwait\@
.endm
# the answer: invalidate, say so, end of interrupt
.macro P_ANSWER sender, number, page
pages_answer_\sender\number:
    invlpg [rip+\page]
    lock dec qword ptr [rip+litmus_words+PAGES_LEFT+\sender*8]
    push rax
    movabs rax, APIC_BASE
    mov dword ptr [rax+APIC_EOI], 0
    pop rax
    iretq
.endm
.macro P_ANSWERS sender
    P_ANSWER \sender, 0, page_x
    P_ANSWER \sender, 1, page_y
    P_ANSWER \sender, 2, page_z
    P_ANSWER \sender, 3, page_u
    P_ANSWER \sender, 4, page_v
.endm

.text
# void litmus_prepare(void)
# The gates and the first entries. Boot CPU; no page has been touched.
litmus_prepare:
    push rbx
    push r12
    mov edi, VEC_PF
    lea rcx, [rip+pages_fault]
    call .Lpages_gate
    lea rbx, [rip+pages_answers]
    mov r12d, VEC_PAGES
.Lpages_next:
    mov rcx, [rbx]
    mov edi, r12d
    call .Lpages_gate
    add rbx, 8
    inc r12d
    lea rax, [rip+pages_answers_end]
    cmp rbx, rax
    jb .Lpages_next
    pop r12
    pop rbx
    jmp pages_set
.Lpages_gate:
    xor esi, esi
    mov edx, GATE_INTERRUPT
    jmp idt_set

# #PF: one of the programs' goes on at rbp, where its next operation is; any other is the kernel's.
pages_fault:
    push rax
    lea rax, [rip+pages_begin]
    cmp [rsp+16], rax                   # rip, above rax and the error code
    jb .Lpages_other
    lea rax, [rip+pages_end]
    cmp [rsp+16], rax
    jae .Lpages_other
    mov [rsp+16], rbp
    pop rax
    add rsp, 8
    iretq
.Lpages_other:
    pop rax
    jmp trap_14

    P_ANSWERS 0
    P_ANSWERS 1
    P_ANSWERS 2
    P_ANSWERS 3

.section .rodata
.p2align 3
.macro P_TABLE sender
    .quad pages_answer_\sender\()0, pages_answer_\sender\()1, pages_answer_\sender\()2
    .quad pages_answer_\sender\()3, pages_answer_\sender\()4, trap_spurious, trap_spurious, trap_spurious
.endm
pages_answers:                          # by sender and page
    P_TABLE 0
    P_TABLE 1
    P_TABLE 2
    P_TABLE 3
pages_answers_end:
