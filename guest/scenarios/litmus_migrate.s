# A thread moves to another CPU while it is deep, and comes back (migrate.s), without a kernel around it.
# It is deep on CPU 0, leaves the kernel on CPU 1 and is switched out there; C takes what is free; then
# it runs on CPU 0 again, whose TLB it has filled itself.
#
# Words: 0 A is for CPU 1, 8 A is for CPU 0.
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
    L_AWAIT 8, 1
    L_DEEP 0
    mov qword ptr [rbx], THIRD          # the accesses in question
    cmp qword ptr [rbx], THIRD
    jne litmus_wrong
    jmp litmus_end

litmus_away:                            # CPU 1
    cmp qword ptr [r15], 1
    jne litmus_away
    L_SWITCH_IN 0
    L_ADDRESS rbx, 0, LITMUS_DEEP
    cmp qword ptr [rbx], FIRST
    jne litmus_wrong
    L_EXIT 0
    L_SWITCH_OUT 0, 256
    L_DEEP 1                            # C takes what is free now, and sleeps deep
    L_ADDRESS rcx, 1, LITMUS_DEEP
    mov qword ptr [rcx], SECOND
    L_SWITCH_OUT 1, 0x3800
    mov qword ptr [r15+8], 1
    jmp litmus_end

.section .rodata
scenario_name:
    .asciz "litmus-migrate"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .quad 2
litmus_programs:
    .quad litmus_home, litmus_away, 0
