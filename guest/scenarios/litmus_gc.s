# CPU 1 collects from a sleeper whose stack CPUs 1 and 2 have read, while a thread exits on CPU 2; another thread
# gets the frames on CPU 1, and the sleeper wakes. (Like pressure.s, without a kernel around it.)
#
# Words: 0 A's item (published), 8 readers that have read the first, 16 published again, 24 A sleeps,
# 32 CPUs that have done their part meanwhile, 40 readers that have read the second.
.equ FIRST,         0x1111
.equ SECOND,        0x2222

.text
litmus_a:                               # CPU 0
    L_DEEP 0
    L_ADDRESS rbx, 0, LITMUS_DEEP
    L_PUBLISH 0, FIRST
    L_AWAIT 8, 2                        # both have read it
    L_EXIT 0
    L_SWITCH_OUT 0, 256
    mov qword ptr [r15+24], 1
    L_AWAIT 32, 2
    L_DEEP 0                            # it wakes
    L_PUBLISH_AGAIN 0, SECOND
    L_AWAIT 40, 2                       # it answers shootdowns to the end
    jmp litmus_end

litmus_b:                               # CPU 1
    call gc_first
    mov edi, 3
    mov eax, HYPER_PRESSURE
    out PORT_HYPERCALL, eax
    L_CREATE 3, 16*SLOT_BYTES           # a new thread, elsewhere, takes what is free now, and sleeps deep
    L_DEEP 3
    L_ADDRESS r12, 0, LITMUS_DEEP
    add r12, 16*SLOT_BYTES
    mov [r12], r12
    lea rsi, [r12+LITMUS_DEEP-0x3800]
    L_CALL HYPER_SWITCH_OUT, 3
    lock inc qword ptr [r15+32]
    jmp gc_second

litmus_c:                               # CPU 2
    call gc_first
    L_CALL HYPER_EXIT_THREAD, 1
    lock inc qword ptr [r15+32]
    jmp gc_second

# void gc_first(void)
# Read the item, and wait until A sleeps. Leaves its address in rbx.
gc_first:
    mov rbx, [r15]
    test rbx, rbx
    jz gc_first
    cmp qword ptr [rbx], FIRST
    jne litmus_wrong
    lock inc qword ptr [r15+8]
    L_AWAIT 24, 1
    ret

# Read what has been published again, and end. Waits with interrupts off for a while, and on again in between.
gc_second:
    L_AWAIT_OFF 16, 1
    cmp qword ptr [rbx], SECOND         # the access in question
    jne litmus_wrong
    sti
    lock inc qword ptr [r15+40]
    L_AWAIT 40, 2
    jmp litmus_end

.section .rodata
scenario_name:
    .asciz "litmus-gc"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .long 2, 2*PAGE_SIZE
litmus_programs:
    .quad litmus_a, litmus_b, litmus_c, 0
