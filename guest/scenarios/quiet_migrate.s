# quiet-then-deep-migrate: A is quiet on CPU 0 and shares on CPU 1; the reader is on CPU 0.
.equ A_ROUNDS,      0x4644424745454103  # three of quiet, nothing, nothing, away, share, rest, home
.equ READER_ROUNDS, 0x4303

.section .rodata
scenario_name:
    .asciz "quiet-then-deep-migrate"
.p2align 3
scenario_threads:
    .quad user_rounds, READER_ROUNDS, 0
    .quad user_rounds, A_ROUNDS, 0
    .quad 0
scenario_calls:
    .quad hog_dive
    .quad quiet_deep
    .quad quiet_share
    .quad quiet_read
    .quad call_hog
    .quad call_nothing
    .quad quiet_home
    .quad quiet_away
    .quad 0
