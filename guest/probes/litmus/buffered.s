# Two CPUs store to a word each and load the other's (probe-memory-order).
.text
program_0:
    lea rsi, [r15+64]
    lea rbx, [r15+128]
    BODY_BUFFERED
    jmp litmus_end
program_1:
    lea rsi, [r15+128]
    lea rbx, [r15+64]
    BODY_BUFFERED
    jmp litmus_end
.section .rodata
scenario_name:
    .asciz "probe"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .quad 0
litmus_programs:
    .quad program_0, program_1, 0
