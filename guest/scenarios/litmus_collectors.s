# Two CPUs are short of memory at once, and take pages from the same sleeper; then it wakes.
#
# Words: 0 A sleeps, 8 CPU 1 has what it wanted.
.equ LIVE,          0x200               # bytes from the top: above the saved SP
.equ FIRST,         0x1111
.equ SECOND,        0x2222

.macro PRESSURE
    mov edi, 3
    mov eax, HYPER_PRESSURE
    out PORT_HYPERCALL, eax
.endm

.text
litmus_a:                               # CPU 0
    L_DEEP 0
    L_ADDRESS rbx, 0, LITMUS_DEEP
    L_ADDRESS r12, 0, LIVE
    mov qword ptr [rbx], FIRST
    mov qword ptr [r12], FIRST
    L_EXIT 0
    L_SWITCH_OUT 0, LIVE+256
    mov qword ptr [r15], 1
    PRESSURE
    L_DEEP 0                            # it is woken
    cmp qword ptr [r12], FIRST
    jne litmus_wrong
    mov qword ptr [rbx], SECOND         # the accesses in question
    L_AWAIT 8, 1                        # it answers shootdowns to the end
    cmp qword ptr [rbx], SECOND
    jne litmus_wrong
    jmp litmus_end

litmus_b:                               # CPU 1
    L_AWAIT 0, 1
    PRESSURE
    mov qword ptr [r15+8], 1
    jmp litmus_end

.section .rodata
scenario_name:
    .asciz "litmus-collectors"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .long 1, 2*PAGE_SIZE
litmus_programs:
    .quad litmus_a, litmus_b, 0
