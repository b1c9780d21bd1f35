# A thread is switched out with a part of its stack in use, and then with none: at first only its deepest page goes,
# then the one above it and that one again. B has read both.
#
# Words: 0 address of the item on the third page (published), and one lies a page below it; 8 B has read the first,
# 16 published again.
.equ FIRST,         0x1111
.equ SECOND,        0x2222
.equ THIRD_PAGE,    0x2800              # bytes from the top to its middle

.macro DEEPEST n, register, value
    L_SWITCH_IN \n
    L_ENTER \n
    L_REQUEST \n, STACK_BYTES
    L_ADDRESS \register, \n, THIRD_PAGE
    mov qword ptr [\register], \value
    mov qword ptr [\register-PAGE_SIZE], \value
.endm

.text
litmus_a:                               # CPU 0
    DEEPEST 0, rbx, FIRST
    L_SHARE 0
    mov [r15], rbx
    L_AWAIT 8, 1                        # B has read both
    L_SWITCH_OUT 0, THIRD_PAGE+256      # the deepest is not in use
    L_SWITCH_IN 0
    L_EXIT 0
    L_SWITCH_OUT 0, LITMUS_DEEP+256     # nor the third
    DEEPEST 1, rcx, 0x3333              # C takes what is free now, and sleeps deep
    L_SWITCH_OUT 1, 0x3900
    DEEPEST 0, rbx, SECOND
    L_SHARE 0
    mov qword ptr [r15+16], 1
    jmp litmus_end

litmus_b:                               # CPU 1
    mov rbx, [r15]
    test rbx, rbx
    jz litmus_b
    cmp qword ptr [rbx], FIRST
    jne litmus_wrong
    cmp qword ptr [rbx-PAGE_SIZE], FIRST
    jne litmus_wrong
    mov qword ptr [r15+8], 1
    L_AWAIT 16, 1
    cmp qword ptr [rbx-PAGE_SIZE], SECOND # the accesses in question
    jne litmus_wrong
    cmp qword ptr [rbx], SECOND
    jne litmus_wrong
    jmp litmus_end

.section .rodata
scenario_name:
    .asciz "litmus-partial"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .quad 2
litmus_programs:
    .quad litmus_a, litmus_b, 0
