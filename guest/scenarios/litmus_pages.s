# Laight's scenario (litmus_laight.s) on every lower page at once: a range that is one page too short, or begins one too
# high, leaves one of them.
#
# Words: 0 address of the item on the second page (published); one lies a page below it, and one two; 8 B has read the
# first, 16 published again.
.equ FIRST,         0x1111
.equ SECOND,        0x2222

# thread `n` runs in a system call that has asked for all there is, and writes on each lower page
.macro ALL n, register, value
    L_SWITCH_IN \n
    L_ENTER \n
    L_REQUEST \n, STACK_BYTES
    L_ADDRESS \register, \n, LITMUS_DEEP
    mov qword ptr [\register], \value
    mov qword ptr [\register-PAGE_SIZE], \value
    mov qword ptr [\register-2*PAGE_SIZE], \value
.endm
# the program is wrong if one of the items at rbx is not `value`
.macro READ_ALL value
    cmp qword ptr [rbx], \value
    jne litmus_wrong
    cmp qword ptr [rbx-PAGE_SIZE], \value
    jne litmus_wrong
    cmp qword ptr [rbx-2*PAGE_SIZE], \value
    jne litmus_wrong
.endm

.text
litmus_a:                               # CPU 0
    ALL 0, rbx, FIRST
    L_SHARE 0
    mov [r15], rbx
    L_AWAIT 8, 1                        # B has read them
    L_EXIT 0
    L_SWITCH_OUT 0, 256
    ALL 1, rcx, 0x3333                  # C takes what is free now, and sleeps deep
    L_SWITCH_OUT 1, 0x3900
    ALL 0, rbx, SECOND
    L_SHARE 0
    mov qword ptr [r15+16], 1
    jmp litmus_end

litmus_b:                               # CPU 1
    mov rbx, [r15]
    test rbx, rbx
    jz litmus_b
    READ_ALL FIRST
    mov qword ptr [r15+8], 1
    L_AWAIT 16, 1
    READ_ALL SECOND                     # the accesses in question
    jmp litmus_end

.section .rodata
scenario_name:
    .asciz "litmus-pages"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .quad 2
litmus_programs:
    .quad litmus_a, litmus_b, 0
