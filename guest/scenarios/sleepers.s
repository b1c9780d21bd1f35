# Ten thousand threads asleep in a system call.
#
# The guest kernel has 64 thread structs, so these threads exist for the policy only (lib_litmus.s): CPU 0
# makes for each the calls that a kernel makes to its stack policy while the thread is created, enters a
# system call, goes 6 KiB deep, comes up and goes to sleep there. When all sleep, CPU 1 wakes each: what it
# had on its stack must still be there, it goes deep once more, returns, and exits. The stacks lie behind
# the kernel's own 64, in page tables made here.
#
# Words: 0 threads that sleep, 8 threads that have exited.
.equ SLEEPERS,      10000
.equ FIRST_TABLE,   1                   # of STACK_PD: behind the kernel's own
.equ TABLES,        157                 # * 64 slots >= SLEEPERS
.equ ASLEEP,        512                 # bytes of stack in use while asleep
.equ DEEP,          0x1800

# edi = id and rbx = stack top of thread number r12
.macro S_THREAD
    lea edi, [r12+LITMUS_THREAD]
    lea rbx, [r12+1]
    shl rbx, SLOT_SHIFT
    movabs rax, STACK_AREA
    add rbx, rax
    add rbx, 0x200000*FIRST_TABLE
.endm
.macro S_CALL function
    S_THREAD
    mov eax, \function
    out PORT_HYPERCALL, eax
.endm
.macro S_CALL_OFF function
    cli
    S_CALL \function
    sti
.endm

.text
litmus_a:                               # CPU 0
    call sleepers_map
    xor r12d, r12d
.La_next:
    S_THREAD
    lea rsi, [rbx-STACK_BYTES]
    mov edx, STACK_BYTES
    mov ecx, 1
    mov eax, HYPER_CREATE_THREAD
    out PORT_HYPERCALL, eax
    test eax, eax
    jz .La_none
    S_CALL_OFF HYPER_SWITCH_IN
    S_THREAD
    mov [r14+T_ID], rdi
    S_CALL_OFF HYPER_ENTER_KERNEL
    mov [rbx-64], rdi
    call sleepers_deep
    S_THREAD
    lea rsi, [rbx-ASLEEP]
    mov eax, HYPER_SWITCH_OUT
    out PORT_HYPERCALL, eax
    inc r12d
    mov [r15], r12
    cmp r12d, SLEEPERS
    jb .La_next
    mov edi, 1
    call sleepers_tell
    lea r13, [r15+8]
    call sleepers_wait                  # it answers shootdowns meanwhile
    jmp litmus_end
.La_none:
    jmp litmus_wrong

litmus_b:                               # CPU 1
    mov r13, r15
    call sleepers_wait
    xor r12d, r12d
.Lb_next:
    S_CALL_OFF HYPER_SWITCH_IN
    S_THREAD
    mov [r14+T_ID], rdi
    cmp [rbx-64], rdi
    jne litmus_wrong
    call sleepers_deep
    S_CALL_OFF HYPER_EXIT_KERNEL
    S_CALL HYPER_EXIT_THREAD
    inc r12d
    mov [r15+8], r12
    cmp r12d, SLEEPERS
    jb .Lb_next
    xor edi, edi
    call sleepers_tell
    jmp litmus_end

# void sleepers_wait(void)
# Halted until the word at r13 is SLEEPERS.
sleepers_wait:
    cli
    cmp qword ptr [r13], SLEEPERS
    je .Lwait_end
    sti
    hlt
    jmp sleepers_wait
.Lwait_end:
    sti
    ret

# void sleepers_tell(u64 cpu)
# Let it look again.
sleepers_tell:
    cli
    mov esi, RESCHED_ICR
    call send_ipi
    sti
    ret

# void sleepers_deep(void)
# Thread number r12 asks for so much, and uses it.
sleepers_deep:
    S_THREAD
    mov esi, DEEP+64
    mov eax, HYPER_REQUEST
    out PORT_HYPERCALL, eax
    test eax, eax
    jz litmus_wrong
    S_THREAD
    mov [rbx-0xff8], rdi
    mov [rbx-DEEP], rdi
    cmp [rbx-DEEP], rdi
    jne litmus_wrong
    ret

# void sleepers_map(void)
# Page tables for the stacks. Nobody has walked there before: nothing to invalidate.
sleepers_map:
    push r12
    xor r12d, r12d
.Lmap_next:
    call frame_alloc
    or rax, PTE_TABLE
    movabs rcx, DIRECT_BASE
    mov [rcx+r12*8+STACK_PD+FIRST_TABLE*8], rax
    inc r12d
    cmp r12d, TABLES
    jb .Lmap_next
    pop r12
    ret

.section .rodata
scenario_name:
    .asciz "futex-sleepers-10000"
.p2align 3
scenario_pool:
    .quad 0xb000             # 176 MiB: sixteen KiB for each, and some to spare
litmus_stacks:
    .quad 0
litmus_programs:
    .quad litmus_a, litmus_b, 0
