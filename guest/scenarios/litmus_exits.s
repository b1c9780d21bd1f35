# Two threads exit at once on two CPUs (litmus_reuse.s on CPUs 0 and 1, another exit on CPU 2): two
# requests to invalidate meet at CPU 1, and the address of one of the stacks is used again. CPU 1 waits for
# that with interrupts off for a while, and on again in between, as a kernel does in its critical sections.
#
# Words: 0 address of the item, 8 B has read the first, 16 published again, 24 C's thread is gone.
.equ FIRST,         0x1111
.equ SECOND,        0x2222
.equ TURNS,         200                 # with interrupts off

# thread `n` on a stack `offset` bytes above A's
.macro L_CREATE n, offset
    L_ADDRESS rsi, 0, STACK_BYTES
    add rsi, \offset
    mov edx, STACK_BYTES
    mov ecx, 1
    L_CALL HYPER_CREATE_THREAD, \n
    test eax, eax
    jz litmus_end                       # no memory
.endm

.text
litmus_a:                               # CPU 0
    L_SWITCH_IN 0
    L_ADDRESS rbx, 0, 64                # in the top page, which every policy maps
    mov qword ptr [rbx], FIRST
    L_SHARE 0
    mov [r15], rbx                      # published
.La_wait:
    cmp qword ptr [r15+8], 1            # B has read it
    jne .La_wait
    L_CALL HYPER_EXIT_THREAD, 0         # A is gone
    L_CREATE 3, 16*SLOT_BYTES           # elsewhere: E gets the frame that was freed last
    L_CREATE 2, 0                       # D gets A's addresses
    L_SWITCH_IN 2
    mov qword ptr [rbx], SECOND
    L_SHARE 2
    mov qword ptr [r15+16], 1           # published again
.La_late:                               # it answers shootdowns to the end
    cmp qword ptr [r15+24], 1
    jne .La_late
    jmp litmus_end

litmus_b:                               # CPU 1
    mov rbx, [r15]
    test rbx, rbx
    jz litmus_b
    mov rax, [rbx]
    mov qword ptr [r15+8], 1
    cmp rax, FIRST
    jne litmus_wrong
.Lb_section:
    cli
    mov edx, TURNS
.Lb_wait:
    cmp qword ptr [r15+16], 1
    je .Lb_again
    dec edx
    jnz .Lb_wait
    sti
    nop                                 # STI holds interrupts off for one instruction
    jmp .Lb_section
.Lb_again:
    cmp qword ptr [rbx], SECOND         # the access in question
    jne litmus_wrong
    sti
.Lb_late:
    cmp qword ptr [r15+24], 1
    jne .Lb_late
    jmp litmus_end

litmus_c:                               # CPU 2
    cmp qword ptr [r15+8], 1
    jne litmus_c
    L_CALL HYPER_EXIT_THREAD, 1
    mov qword ptr [r15+24], 1
.Lc_late:
    cmp qword ptr [r15+16], 1
    jne .Lc_late
    jmp litmus_end

.section .rodata
scenario_name:
    .asciz "litmus-exits"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .quad 2
litmus_programs:
    .quad litmus_a, litmus_b, litmus_c, 0
