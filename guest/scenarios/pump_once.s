# pump.s with one thread and 120 rounds.
.equ A_ROUNDS,      0x02414078          # 120 of away, home, yield

.section .rodata
scenario_name:
    .asciz "pump"
.p2align 3
scenario_threads:
    .quad user_rounds, A_ROUNDS, 0
    .quad 0
