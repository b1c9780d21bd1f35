# Two threads exit at once on two CPUs (litmus_reuse.s on CPUs 0 and 1, another exit on CPU 2): two
# requests to invalidate meet at CPU 1, and the address of one of the stacks is used again. CPU 1 waits for
# that with interrupts off for a while, and on again in between, as a kernel does in its critical sections.
#
# Words: 0 address of the item, 8 B has read the first, 16 published again, 24 C's thread is gone.
.equ FIRST,         0x1111
.equ SECOND,        0x2222

.text
litmus_a:                               # CPU 0
    L_SWITCH_IN 0
    L_ADDRESS rbx, 0, 64                # in the top page, which every policy maps
    L_PUBLISH 0, FIRST
    L_AWAIT 8, 1                        # B has read it
    L_CALL HYPER_EXIT_THREAD, 0         # A is gone
    L_CREATE 3, 16*SLOT_BYTES           # elsewhere: E gets the frame that was freed last
    L_CREATE 2, 0                       # D gets A's addresses
    L_PUBLISH_AGAIN 2, SECOND
    L_AWAIT 24, 1                       # it answers shootdowns to the end
    jmp litmus_end

litmus_b:                               # CPU 1
    L_READ_FIRST FIRST
    L_AWAIT_OFF 16, 1
    cmp qword ptr [rbx], SECOND         # the access in question
    jne litmus_wrong
    sti
    L_AWAIT 24, 1
    jmp litmus_end

litmus_c:                               # CPU 2
    L_ADDRESS rbx, 1, 64
    mov [rbx], rbx
    L_AWAIT 8, 1
    L_CALL HYPER_EXIT_THREAD, 1
    mov qword ptr [r15+24], 1
    L_AWAIT 16, 1
    jmp litmus_end

.section .rodata
scenario_name:
    .asciz "litmus-exits"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .long 2, PAGE_SIZE
litmus_programs:
    .quad litmus_a, litmus_b, litmus_c, 0
