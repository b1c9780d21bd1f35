# shallow-then-deep: A never goes deep before the one round that shares.
.equ A_ROUNDS,      0x424441444101      # one of quiet, rest, quiet, rest, share
.equ READER_ROUNDS, 0x4301

.section .rodata
scenario_name:
    .asciz "shallow-then-deep"
.p2align 3
scenario_threads:
    .quad user_rounds, READER_ROUNDS, 1
    .quad user_rounds, A_ROUNDS, 0
    .quad 0
scenario_calls:
    .quad hog_dive
    .quad quiet_shallow
    .quad quiet_share
    .quad quiet_read
    .quad call_hog
    .quad call_nothing
    .quad 0
