# A thread is deep on CPU 0, then on CPU 1, shallow on CPU 2, where its pages go, and deep on the first two again: each of
# them holds what it has left there (litmus_migrate.s with one more).
#
# Words: 0 A is for CPU 1, 8 for CPU 2, 16 for CPU 0, 24 for CPU 1 again, 32 it is at its end.
.equ FIRST,         0x1111
.equ SECOND,        0x2222
.equ THIRD,         0x3333

.text
litmus_home:                            # CPU 0
    L_DEEP 0
    L_ADDRESS rbx, 0, LITMUS_DEEP
    mov qword ptr [rbx], FIRST
    L_SWITCH_OUT 0, LITMUS_DEEP+256     # it sleeps deep
    mov qword ptr [r15], 1
    L_AWAIT 16, 1
    L_DEEP 0
    mov qword ptr [rbx], SECOND         # the access in question
    L_SWITCH_OUT 0, LITMUS_DEEP+256
    mov qword ptr [r15+24], 1
    L_AWAIT 32, 1                       # it answers shootdowns to the end
    jmp litmus_end

litmus_away:                            # CPU 1
    L_AWAIT 0, 1
    L_SWITCH_IN 0
    L_ADDRESS rbx, 0, LITMUS_DEEP
    cmp qword ptr [rbx], FIRST
    jne litmus_wrong
    L_SWITCH_OUT 0, LITMUS_DEEP+256
    mov qword ptr [r15+8], 1
    L_AWAIT 24, 1
    L_SWITCH_IN 0
    cmp qword ptr [rbx], SECOND         # and that
    jne litmus_wrong
    mov qword ptr [r15+32], 1
    jmp litmus_end

litmus_far:                             # CPU 2
    L_AWAIT 8, 1
    L_SWITCH_IN 0
    L_EXIT 0
    L_SWITCH_OUT 0, 256
    L_TAKE_FRAMES 1
    mov qword ptr [r15+16], 1
    L_AWAIT 32, 1
    jmp litmus_end

.section .rodata
scenario_name:
    .asciz "litmus-tour"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .long 2, 2*PAGE_SIZE
litmus_programs:
    .quad litmus_home, litmus_away, litmus_far, 0
