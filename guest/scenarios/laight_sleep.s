# laight-sleep: A waits for B asleep, deep in its stack; B wakes it through the entry there.
.data
.p2align 3
laight_sleeps:
    .quad 1
