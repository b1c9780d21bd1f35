# The number of iterations, put here by bench/image.py in place of a pattern.
.data
.p2align 3
bench_count:
    .quad 0x6b737461636b2121
scenario_tick:
    .quad 0
.p2align 3
scenario_pool:                          # no policy, no pool
    .quad POOL_PAGES
