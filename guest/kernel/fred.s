# FRED: the entry page, the returns, and switching to it. Never touched unless the machine's policy
# asks for it (hyper.s, BOOT), so the same image runs where there is no FRED.
#
# Sources: Linux entry_64_fred.S, entry_fred.c, kernel/fred.c; levels as in Stevens's v2 of Dynamic
# Kernel Stacks (ring-0 #PF at level 1; mainline has it at 0). The stacks of levels 1, 2 and 3 are
# those of IST 3, 2 and 1, which FRED leaves unused; level 0 is the thread's own stack.
#
#   event                       level     event                         level
#   from ring 3 (not #DF)       0         ring-0 #PF, #DB               1
#   interrupts                  0         NMI, #MC                      2
#   other exceptions            0         #DF                           3
#
# The hardware pushes, from rsp up: error code, rip, cs, rflags, rsp, ss, event data, 0. Below it the
# entry builds the trap frame of trap.s; cs and ss keep their upper bits in it (cs: bits 17:16 the
# level at the event; ss: what the event was), and the return pops them. What lives at a level above 0
# may not sleep and is not preempted: a ring-0 #PF that is no stack fault goes down to level 0 first.

.equ FRED_RED_ZONE, 0x40                # CONFIG: one unit of 64 bytes; interrupts at level 0
.equ FRED_LEVELS_LOW, 0x10030024        # STKLVLS: #DB 1, NMI 2, #DF 3, #PF 1
.equ FRED_LEVELS_HIGH, 0x20             # ... #MC 2
.equ CR4_FRED_BIT,  32
.equ FRED_INT_N,    4                   # event types
.equ FRED_OTHER,    7
.equ FRED_NESTED_BIT, 26                # in the high half of the ss word
.equ FRED_LEVEL_BITS, 0x30000           # in the cs word
.equ TF_EVENT,      180                 # TF_SS + 4: vector 7:0, type 19:16, nested 26, length 31:28
.equ TF_DATA,       184
.equ TF_FRED_BYTES, 200                 # a trap frame with the event data and the zero above it

.macro ERETS
    .byte 0xf2, 0x0f, 0x01, 0xca
.endm
.macro ERETU
    .byte 0xf3, 0x0f, 0x01, 0xca
.endm

.text
# The entry page: from ring 3 at its start, from ring 0 256 bytes on. Interrupts off, kernel GS.
.p2align 12, 0x90
fred_entry:
    push 0
    PUSH_REGS
    jmp fred_user
.p2align 8, 0x90
    push 0
    PUSH_REGS
    jmp fred_kernel

# Fill in vector, and CR2 for #PF, of the trap frame that lies above the return address. INT n becomes
# the #GP that a gate with DPL 0 would raise. Changes rax, rcx and rdx.
fred_event:
    mov eax, [rsp+8+TF_EVENT]
    movzx ecx, al
    mov edx, eax
    shr edx, 16
    and edx, 15
    cmp edx, FRED_INT_N
    je .Lfred_int
    cmp edx, FRED_OTHER
    je .Lfred_call
    cmp ecx, VEC_PF
    jne .Lfred_vector
    mov rdx, [rsp+8+TF_DATA]
    mov [rsp+8+TF_CR2], rdx
.Lfred_vector:
    mov [rsp+8+TF_VEC], rcx
    ret
.Lfred_call:
    mov ecx, VEC_SYSCALL
    jmp .Lfred_vector
.Lfred_int:
    lea rdx, [rcx*8+2]                  # the selector format of an error code: IDT
    mov [rsp+8+TF_ERR], rdx
    shr eax, 28
    sub [rsp+8+TF_RIP], rax             # a fault is at the instruction
    mov ecx, VEC_GP
    jmp .Lfred_vector

# From ring 3, on the thread's stack at its top, level 0. Two kinds of event come on another stack:
# #DF, and one that arose while another was pushed (the thread's stack was not there).
fred_user:
    call fred_event
    mov eax, [rsp+TF_EVENT]
    bt eax, FRED_NESTED_BIT
    jc fred_no_stack
    mov ecx, [rsp+TF_VEC]
    cmp ecx, VEC_DF
    je fred_no_stack
    cmp ecx, VEC_NMI
    je .Lfred_user_direct
    call enter_kernel
    cmp qword ptr [rsp+TF_VEC], VEC_SYSCALL
    je .Lfred_syscall
    mov rdi, rsp
    call trap_dispatch
    jmp trap_return
.Lfred_syscall:
    sti
    mov rdi, rsp
    call syscall_dispatch
    mov [rsp+TF_RAX], rax
    jmp trap_return_user
.Lfred_user_direct:                     # NMIs are blocked: no policy, no scheduling
    mov rdi, rsp
    call trap_dispatch

# Return to ring 3 through the trap frame at rsp. Interrupts off, level 0.
fred_return_user:
    POP_REGS
    add rsp, 8                          # vector
    ERETU

# From ring 0, on the interrupted stack or, where the level rose, at the top of another.
fred_kernel:
    call fred_event
    mov ecx, [rsp+TF_VEC]
    cmp ecx, VEC_PF
    je fred_page_fault
    mov rdi, rsp
    cmp ecx, VEC_DF
    je .Lfred_kernel_direct
    cmp ecx, VEC_NMI
    je .Lfred_kernel_direct
    cmp ecx, VEC_DB
    je .Lfred_kernel_direct
    cmp ecx, VEC_MC
    je .Lfred_kernel_direct
    call trap_dispatch
    jmp trap_return
.Lfred_kernel_direct:                   # above level 0: no preemption
    call trap_dispatch

# Return to ring 0 through the trap frame at rsp, to the level in its cs word.
fred_return_kernel:
    POP_REGS
    add rsp, 8                          # vector
    ERETS

# Ring-0 #PF, at level 1 or above. As trap_14: first the policy is asked; then, if it interrupted code
# at level 0, frame and handler move to the interrupted stack.
fred_page_fault:
    mov rdi, [rsp+TF_CR2]
    mov rsi, [rsp+TF_ERR]
    call stack_fault
    test eax, eax
    jnz fred_return_kernel
    mov rax, [rsp+TF_CR2]
    movabs rcx, STACK_AREA
    sub rax, rcx
    cmp rax, STACK_AREA_BYTES
    jb .Lfred_here                      # no stack to move to: caught or fatal, right here
    test dword ptr [rsp+TF_CS], FRED_LEVEL_BITS
    jnz .Lfred_here
    mov rdi, [rsp+TF_RSP]
    lea rsi, [rip+.Lfred_demoted]
    jmp fred_demote
.Lfred_here:
    mov rdi, rsp
    call exception
    jmp fred_return_kernel
.Lfred_demoted:
    mov rdi, rsp
    call exception
    jmp trap_return

# fred_demote(u64 stack, void *next): not called but jumped to
# Copy the trap frame at rsp to that stack, below the red zone, and go on at `next`, at level 0, with
# rsp at the copy. Only ERETS lowers the level. The copy may fault itself: that comes at this level.
#
#   rsp before ERETS:  error code, rip = next, cs at level 0, rflags, rsp = the copy, ss
fred_demote:
    and rdi, -64
    sub rdi, TF_FRED_BYTES+64
    mov rdx, rdi
    mov rax, rsi
    mov rsi, rsp
    mov ecx, 25                         # TF_FRED_BYTES / 8
    rep movsq
    push KERNEL_DS
    push rdx
    push 2                              # interrupts off
    push KERNEL_CS
    push rax
    push 0
    ERETS

# An event of ring 3 for which the thread's stack was not there, on another stack: growth or the end.
# The state in the frame is that before the event, which comes again.
fred_no_stack:
    mov rdi, [rsp+TF_CR2]
    mov esi, PTE_W                      # the push that faulted
    call stack_fault
    test eax, eax
    jz .Lfred_lost
    CURRENT
    mov rdi, [rax+T_TOP]
    add rdi, 64                         # at the very top: there is no red zone to keep
    lea rsi, [rip+.Lfred_found]
    jmp fred_demote
.Lfred_found:
    call enter_kernel
    jmp trap_return_user
.Lfred_lost:
    mov rdi, rsp
    lea rsi, [rip+.Lfred_text_lost]
    jmp panic

# void fred_init(void)
# Switch this CPU to FRED. Interrupts off, nothing in flight. A CPU that goes offline later keeps it.
fred_init:
    push rbx
    push r12
    THIS_CPU
    mov r12, rax
    mov rbx, [rax+CPU_TSS]
    mov ecx, MSR_FRED_RSP0
    mov rax, [r12+CPU_KSTACK]
    call fred_wrmsr
    mov rax, [rbx+TSS_IST3]
    call fred_wrmsr
    mov rax, [rbx+TSS_IST2]
    call fred_wrmsr
    mov rax, [rbx+TSS_IST1]
    call fred_wrmsr
    mov eax, FRED_LEVELS_LOW
    mov edx, FRED_LEVELS_HIGH
    wrmsr                               # STKLVLS follows the four RSPs
    mov ecx, MSR_FRED_CONFIG
    lea rax, [rip+fred_entry]
    or rax, FRED_RED_ZONE
    call fred_wrmsr
    mov dword ptr [rip+fred_on], 1
    mov rax, cr4
    bts rax, CR4_FRED_BIT
    mov cr4, rax
    pop r12
    pop rbx
    ret

# Write rax to MSR ecx, and go on to the next one. Changes rdx.
fred_wrmsr:
    mov rdx, rax
    shr rdx, 32
    wrmsr
    inc ecx
    ret

.section .rodata
.Lfred_text_lost:
    .asciz "no kernel stack"
.data
.p2align 2
fred_on:                                # 1 once CPUs take events by FRED; trap.s and sched.s ask
    .long 0
