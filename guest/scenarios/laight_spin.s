# laight: A waits for B spinning, with interrupts on.
.data
.p2align 3
laight_sleeps:
    .quad 0
