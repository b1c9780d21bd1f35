# CPU 1 collects from a sleeper whose stack CPUs 1 and 2 have read, while a thread exits on CPU 2; another thread
# gets the frames on CPU 1, and the sleeper wakes. (Like pressure.s, without a kernel around it.)
#
# Words: 0 A's item (published), 8 readers that have read the first, 16 published again, 24 A sleeps,
# 32 CPUs that have done their part meanwhile, 40 readers that have read the second.
.equ FIRST,         0x1111
.equ SECOND,        0x2222
.equ TURNS,         200                 # with interrupts off

.text
litmus_a:                               # CPU 0
    L_SWITCH_IN 0
    L_ENTER 0
    L_REQUEST 0, LITMUS_DEEP
    L_ADDRESS rbx, 0, LITMUS_DEEP
    mov qword ptr [rbx], FIRST
    L_SHARE 0
    mov [r15], rbx                      # published
.La_wait:
    cmp qword ptr [r15+8], 2            # both have read it
    jne .La_wait
    L_EXIT 0
    L_SWITCH_OUT 0, 256
    mov qword ptr [r15+24], 1
.La_sleep:
    cmp qword ptr [r15+32], 2
    jne .La_sleep
    L_SWITCH_IN 0                       # it wakes
    L_ENTER 0
    L_REQUEST 0, LITMUS_DEEP
    mov qword ptr [rbx], SECOND
    L_SHARE 0
    mov qword ptr [r15+16], 1           # published again
.La_stay:                               # it answers shootdowns to the end
    cmp qword ptr [r15+40], 2
    jne .La_stay
    jmp litmus_end

litmus_b:                               # CPU 1
    call gc_first
    mov edi, 3
    mov eax, HYPER_PRESSURE
    out PORT_HYPERCALL, eax
    L_ADDRESS rsi, 0, STACK_BYTES       # a new thread, elsewhere, takes what is free now, and sleeps deep
    add rsi, 16*SLOT_BYTES
    mov r12, rsi
    mov edx, STACK_BYTES
    mov ecx, 1
    L_CALL HYPER_CREATE_THREAD, 3
    test eax, eax
    jz litmus_end                       # no memory
    L_SWITCH_IN 3
    L_ENTER 3
    L_REQUEST 3, LITMUS_DEEP
    add r12, STACK_BYTES-LITMUS_DEEP
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
.Lfirst_wait:
    cmp qword ptr [r15+24], 1
    jne .Lfirst_wait
    ret

# Read what has been published again, and end. Waits with interrupts off for a while, and on again in between.
gc_second:
    cli
    mov edx, TURNS
.Lsecond_wait:
    cmp qword ptr [r15+16], 1
    je .Lsecond_read
    dec edx
    jnz .Lsecond_wait
    sti
    nop                                 # STI holds interrupts off for one instruction
    jmp gc_second
.Lsecond_read:
    cmp qword ptr [rbx], SECOND         # the access in question
    jne litmus_wrong
    sti
    lock inc qword ptr [r15+40]
.Lsecond_stay:
    cmp qword ptr [r15+40], 2
    jne .Lsecond_stay
    jmp litmus_end

.section .rodata
scenario_name:
    .asciz "litmus-gc"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .quad 2
litmus_programs:
    .quad litmus_a, litmus_b, litmus_c, 0
