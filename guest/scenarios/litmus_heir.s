# A thread exits on CPU 0, and CPU 1, which has read its stack, makes a new thread at the same addresses and runs it there
# (litmus_reuse.s has the other direction): its own TLB is in question.
#
# Words: 0 address of the item, 8 B has read it, 16 A is gone.
.equ FIRST,         0x1111
.equ SECOND,        0x2222

.text
litmus_a:                               # CPU 0
    L_DEEP 0
    L_ADDRESS rbx, 0, LITMUS_DEEP
    L_PUBLISH 0, FIRST
    L_AWAIT 8, 1                        # B has read it
    L_CALL HYPER_EXIT_THREAD, 0         # A is gone
    mov qword ptr [r15+16], 1
    jmp litmus_end

litmus_b:                               # CPU 1
    L_READ_FIRST FIRST
    L_AWAIT 16, 1
    L_CREATE 1, 0                       # D gets A's stack area
    L_DEEP 1
    mov qword ptr [rbx], SECOND         # the accesses in question
    cmp qword ptr [rbx], SECOND
    jne litmus_wrong
    jmp litmus_end

.section .rodata
scenario_name:
    .asciz "litmus-heir"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .long 1, 2*PAGE_SIZE
litmus_programs:
    .quad litmus_a, litmus_b, 0
