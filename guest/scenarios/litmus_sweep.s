# A CPU that has read a sleeper's stack sweeps by itself, at a switch of its own and then at a tick, and reads the
# stack again when it has other frames: what it was to invalidate it must have invalidated.
#
# Words: 0 address of A's item (published), 8 B has read the first, 16 published again, 24 and 48 A is asleep,
# 32 and 56 B has swept, 40 B has read the second, 64 written a third time.
.equ FIRST,         0x1111
.equ SECOND,        0x2222
.equ THIRD,         0x3333

.text
litmus_a:                               # CPU 0
    L_DEEP 0
    L_ADDRESS rbx, 0, LITMUS_DEEP
    L_PUBLISH 0, FIRST
    L_AWAIT 8, 1
    L_EXIT 0
    L_SWITCH_OUT 0, 256
    mov qword ptr [r15+24], 1
    L_AWAIT 32, 1
    L_DEEP 0
    L_PUBLISH_AGAIN 0, SECOND
    L_AWAIT 40, 1
    L_EXIT 0
    L_SWITCH_OUT 0, 256
    mov qword ptr [r15+48], 1
    L_AWAIT 56, 1
    L_DEEP 0
    mov qword ptr [rbx], THIRD
    mov qword ptr [r15+64], 1
    jmp litmus_end

litmus_b:                               # CPU 1
    L_READ_FIRST FIRST
    L_AWAIT 24, 1
    L_SWITCH_OUT 1, 256                 # a thread of its own
    mov qword ptr [r15+32], 1
    L_AWAIT 16, 1
    cmp qword ptr [rbx], SECOND         # the access in question
    jne litmus_wrong
    mov qword ptr [r15+40], 1
    L_AWAIT 48, 1
    cli
    mov eax, HYPER_TICK
    out PORT_HYPERCALL, eax
    sti
    mov qword ptr [r15+56], 1
    L_AWAIT 64, 1
    cmp qword ptr [rbx], THIRD          # and again
    jne litmus_wrong
    jmp litmus_end

.section .rodata
scenario_name:
    .asciz "litmus-sweep"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .quad 2
litmus_programs:
    .quad litmus_a, litmus_b, 0
