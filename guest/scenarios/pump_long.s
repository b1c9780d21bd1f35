# pump.s with eight threads that make 255 rounds each.
.equ A_ROUNDS,      0x024140ff          # 255 of away, home, yield

.section .rodata
scenario_name:
    .asciz "pump-long"
.p2align 3
scenario_threads:
    .quad user_rounds, A_ROUNDS, 0
    .quad user_rounds, A_ROUNDS, 0
    .quad user_rounds, A_ROUNDS, 0
    .quad user_rounds, A_ROUNDS, 0
    .quad user_rounds, A_ROUNDS, 0
    .quad user_rounds, A_ROUNDS, 0
    .quad user_rounds, A_ROUNDS, 0
    .quad user_rounds, A_ROUNDS, 0
    .quad 0
