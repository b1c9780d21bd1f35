# CPU 0 collects from a sleeper while a thread exits on CPU 2: both ask CPU 1, which has been to both stacks, to invalidate.
#
# Words: 0 the sleeper's item (published), 8 B has read it, 16 published again, 24 C's thread is gone.
.equ FIRST,         0x1111
.equ SECOND,        0x2222

.text
litmus_a:                               # CPU 0
    L_DEEP 0
    L_ADDRESS rbx, 0, LITMUS_DEEP
    L_PUBLISH 0, FIRST
    L_AWAIT 8, 1                        # B has read it
    L_EXIT 0
    L_SWITCH_OUT 0, 256
    mov edi, 3
    mov eax, HYPER_PRESSURE
    out PORT_HYPERCALL, eax
    L_AWAIT 24, 1                       # C's thread is gone, and C has its answers
    L_TAKE_FRAMES 2
    L_DEEP 0                            # it wakes
    L_PUBLISH_AGAIN 0, SECOND
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
    .asciz "litmus-batch"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .long 3, 2*PAGE_SIZE
litmus_programs:
    .quad litmus_a, litmus_b, litmus_c, 0
