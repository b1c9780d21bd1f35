# Who handles which vector: the entries of the IDT (desc.s).
#
# SDM table 6-1 (vectors), 6.14.5 (IST).

.section .rodata
# vector; IST, gate type; handler
idt_table:
    .quad 0
    .long 0, GATE_INTERRUPT
    .quad trap_0
    .quad 1
    .long 0, GATE_INTERRUPT
    .quad trap_1
    .quad 2
    .long IST_NMI, GATE_INTERRUPT
    .quad trap_2
    .quad 3
    .long 0, GATE_USER
    .quad trap_3
    .quad 4
    .long 0, GATE_INTERRUPT
    .quad trap_4
    .quad 5
    .long 0, GATE_INTERRUPT
    .quad trap_5
    .quad 6
    .long 0, GATE_INTERRUPT
    .quad trap_6
    .quad 7
    .long 0, GATE_INTERRUPT
    .quad trap_7
    .quad 8
    .long IST_DF, GATE_INTERRUPT
    .quad trap_8
    .quad 10
    .long 0, GATE_INTERRUPT
    .quad trap_10
    .quad 11
    .long 0, GATE_INTERRUPT
    .quad trap_11
    .quad 12
    .long 0, GATE_INTERRUPT
    .quad trap_12
    .quad 13
    .long 0, GATE_INTERRUPT
    .quad trap_13
    .quad 16
    .long 0, GATE_INTERRUPT
    .quad trap_16
    .quad 17
    .long 0, GATE_INTERRUPT
    .quad trap_17
    .quad 18
    .long 0, GATE_INTERRUPT
    .quad trap_18
    .quad 19
    .long 0, GATE_INTERRUPT
    .quad trap_19
    .quad VEC_TIMER
    .long 0, GATE_INTERRUPT
    .quad trap_timer
    .quad VEC_SHOOTDOWN
    .long 0, GATE_INTERRUPT
    .quad trap_shootdown
    .quad VEC_RESCHED
    .long 0, GATE_INTERRUPT
    .quad trap_resched
    .quad VEC_CALL
    .long 0, GATE_INTERRUPT
    .quad trap_call
    .quad VEC_SPURIOUS
    .long 0, GATE_INTERRUPT
    .quad trap_spurious
    .quad -1
