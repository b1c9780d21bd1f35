# Laight's scenario (litmus_laight.s) with two readers: both have to be told, and waited for.
#
# Words: 0 address of A's item (published), 8 readers that have read the first, 16 published again.
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
    L_TAKE_FRAMES 1
    L_DEEP 0
    L_PUBLISH_AGAIN 0, SECOND
    jmp litmus_end

litmus_b:                               # CPUs 1 and 2
    mov rbx, [r15]
    test rbx, rbx
    jz litmus_b
    cmp qword ptr [rbx], FIRST
    jne litmus_wrong
    lock inc qword ptr [r15+8]
    L_AWAIT_OFF 16, 1
    cmp qword ptr [rbx], SECOND         # the access in question
    jne litmus_wrong
    sti
    jmp litmus_end

.section .rodata
scenario_name:
    .asciz "litmus-readers"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .long 2, 2*PAGE_SIZE
litmus_programs:
    .quad litmus_a, litmus_b, litmus_b, 0
