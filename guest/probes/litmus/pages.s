# What the litmus scenarios of this folder have in common: two pages, x with the word WORD_A and y with WORD_B, of which x is
# the page in question (../bodies.s), as frame_a and frame_b in a probe image; and a word at r15 to tell by.

.equ WORD_A,        0x1111
.equ WORD_B,        0x2222
.equ WORD_NEW,      0x3333
.equ ENTRY_USED,    0x8000000000000063  # NX D A W P
.equ ENTRY_CLEAN,   0x8000000000000023  # NX   A W P
.equ ENTRY_UNUSED,  0x8000000000000003  # NX     W P
.equ ENTRY_READ,    0x8000000000000021  # NX   A   P

# rbx, rdx, rsi as the bodies want them; rax = an entry for the frame of a page. No result, no fault
.macro L_READY page, flags
    lea rbx, [rip+page_x]
    P_ENTRY rdx, page_x
    P_VALUE \page, \flags
    mov rsi, r15
    mov r10d, WORD_NEW
    xor r8d, r8d
    xor r9d, r9d
    xor r12d, r12d
.endm

.section .rodata
scenario_name:
    .asciz "probe"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .quad 0
.data
.p2align 12
page_x:
    .quad WORD_A
    .zero 4088
page_y:
page_z:                                 # lib_pages.s wants five
page_u:
page_v:
    .quad WORD_B
    .zero 4088
