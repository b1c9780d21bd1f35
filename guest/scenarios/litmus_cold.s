# Pages that a sleeper has never touched are taken from it while it wakes, and then it reads, writes and shares
# them, without a kernel around it: CPU 1 is short of memory, CPU 0 switches to the sleeper at that moment. What CPU 1
# reads at the end it has never accessed before: what it has cached of it, it has cached by speculation.
#
# Words: 0 A sleeps, 8 A has run, 16 CPU 1 has what it wanted, 24 CPU 1 has read.
.equ LIVE,          0x200               # bytes from the top: above the saved SP
.equ AWHILE,        100                 # instructions / 2
.equ FIRST,         0x1111
.equ SECOND,        0x2222

.text
litmus_a:                               # CPU 0
    L_ENTER 0
    L_ADDRESS rbx, 0, LITMUS_DEEP
    L_ADDRESS rcx, 0, LIVE
    mov qword ptr [rcx], FIRST
    L_EXIT 0
    L_SWITCH_OUT 0, LIVE+256
    mov qword ptr [r15], 1
    mov edx, AWHILE                     # nothing that others can tell: time for CPU 1 where time exists
.La_sleep:
    dec edx
    jnz .La_sleep
    mov rax, [r15+16]                   # an interrupt can be taken here, and not after it for a while
    L_DEEP 0                            # it is woken
    cmp qword ptr [rcx], FIRST
    jne litmus_wrong
    mov rax, [rbx]                      # the access in question; a store would walk for Dirty
    mov qword ptr [rbx], SECOND
    mov qword ptr [r15+8], 1
    L_AWAIT 16, 1                       # it answers shootdowns to the end
    L_AWAIT 24, 1
    cmp qword ptr [rbx], SECOND
    jne litmus_wrong
    jmp litmus_end

litmus_b:                               # CPU 1
    cmp qword ptr [r15], 1
    jne litmus_b
    mov edi, 3
    mov eax, HYPER_PRESSURE
    out PORT_HYPERCALL, eax
    mov qword ptr [r15+16], 1
    L_AWAIT 8, 1
    L_ADDRESS rbx, 0, LITMUS_DEEP
    cmp qword ptr [rbx], SECOND         # and this one
    jne litmus_wrong
    mov qword ptr [r15+24], 1
    jmp litmus_end

.section .rodata
scenario_name:
    .asciz "litmus-cold"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .quad 1
litmus_programs:
    .quad litmus_a, litmus_b, 0
