# quiet-then-deep: A stays on CPU 0, the reader is on CPU 1.
.equ A_ROUNDS,      0x454442454103      # three of quiet, nothing, share, rest, nothing
.equ READER_ROUNDS, 0x4303

.section .rodata
scenario_name:
    .asciz "quiet-then-deep"
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
