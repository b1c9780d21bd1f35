# Exceptions, interrupts and NMIs: entry, dispatch, return; catching a fault.
#
# SDM 6.14 (64-bit interrupt handling), 6.7 (NMI), table 6-1 (vectors). With FRED the entries and the
# last instructions of the returns are those of fred.s. Every entry builds the same trap frame (defs.s,
# TF_*):
#
#   rsp+176 ss, rsp, rflags, cs, rip     pushed by hardware
#   rsp+136 error code                   pushed by hardware, or 0
#   rsp+128 vector
#   rsp+8   rax rbx rcx rdx rsi rdi rbp r8 .. r15
#   rsp+0   CR2 at entry
#
# From ring 3 the stack is the thread's own, from its top, and the policy's enter_kernel runs first.
# CR2 is read after fifteen pushes: if one of these faults (a policy took the page) the nested #PF
# or #DF has overwritten it. That is the architecture's hazard, not hidden here.

.macro TRAP vec
trap_\vec:
    push 0
    push \vec
    jmp trap_common
.endm
.macro TRAP_ERR vec
trap_\vec:
    push \vec
    jmp trap_common
.endm
.macro TRAP_IRQ name, vec
trap_\name:
    push 0
    push \vec
    jmp trap_common
.endm
.macro PUSH_REGS
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rax, cr2
    push rax
    cld
.endm
.macro POP_REGS
    add rsp, 8
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
.endm

.text
    TRAP 0
    TRAP 1
    TRAP 3
    TRAP 4
    TRAP 5
    TRAP 6
    TRAP 7
    TRAP_ERR 10
    TRAP_ERR 11
    TRAP_ERR 12
    TRAP_ERR 13
    TRAP 16
    TRAP_ERR 17
    TRAP 19
    TRAP_IRQ timer, VEC_TIMER
    TRAP_IRQ shootdown, VEC_SHOOTDOWN
    TRAP_IRQ resched, VEC_RESCHED
    TRAP_IRQ call, VEC_CALL
    TRAP_IRQ spurious, VEC_SPURIOUS

trap_common:
    PUSH_REGS
    test byte ptr [rsp+TF_CS], 3
    jz .Ltrap_in_kernel
    swapgs
    call enter_kernel
.Ltrap_in_kernel:
    mov rdi, rsp
    call trap_dispatch

# Return through the trap frame at rsp.
trap_return:
    cli
    test byte ptr [rsp+TF_CS], 3
    jnz trap_return_user
    bt dword ptr [rsp+TF_FLAGS], FLAGS_IF_BIT
    jnc .Ltrap_restore
    THIS_CPU
    cmp qword ptr [rax+CPU_RESCHED], 0
    je .Ltrap_restore
    mov rax, [rax+CPU_THREAD]
    cmp qword ptr [rax+T_PREEMPT], 0
    jne .Ltrap_restore
    call schedule                       # preempt kernel code
.Ltrap_restore:
    cmp dword ptr [rip+fred_on], 0
    jne fred_return_kernel
    POP_REGS
    add rsp, 16
    iretq

# Return to ring 3 through the trap frame at rsp, which is at the top of the thread's stack.
trap_return_user:
    cli
    THIS_CPU
    cmp qword ptr [rax+CPU_RESCHED], 0
    je .Ltrap_leave
    call schedule
    jmp trap_return_user
.Ltrap_leave:
    call exit_kernel
    cmp dword ptr [rip+fred_on], 0
    jne fred_return_user
    swapgs
    jmp .Ltrap_restore

# void enter_kernel(void), void exit_kernel(void)
# The policy's hooks: on the entering thread's stack, interrupts off.
enter_kernel:
    CURRENT
    mov rdi, [rax+T_ID]
    mov eax, HYPER_ENTER_KERNEL
    jmp hypercall
exit_kernel:
    CURRENT
    mov rdi, [rax+T_ID]
    mov eax, HYPER_EXIT_KERNEL
    jmp hypercall

# #PF. First the policy is asked, then, if this runs on the IST stack, the frame is moved to the
# thread's stack ("demoted"): the rest may sleep, and a second #PF would rewind the IST stack.
trap_14:
    push VEC_PF
    PUSH_REGS
    test byte ptr [rsp+TF_CS], 3
    jz .Lpf_in_kernel
    swapgs
    call enter_kernel
    jmp .Lpf_demote
.Lpf_in_kernel:
    mov rdi, [rsp+TF_CR2]
    mov rsi, [rsp+TF_ERR]
    call stack_fault
    test eax, eax
    jnz .Ltrap_restore
    mov rax, [rsp+TF_CR2]
    movabs rcx, STACK_AREA
    sub rax, rcx
    cmp rax, STACK_AREA_BYTES
    jb .Lpf_rest                        # no stack to move to: caught or fatal, right here
.Lpf_demote:
    cmp dword ptr [rip+pf_ist], 0
    je .Lpf_rest
    mov rdi, [rsp+TF_RSP]
    test byte ptr [rsp+TF_CS], 3
    jz .Lpf_copy
    CURRENT
    mov rdi, [rax+T_TOP]
.Lpf_copy:
    and rdi, -16
    sub rdi, TF_BYTES
    mov rsi, rsp
    mov rdx, rdi
    mov ecx, 23                         # TF_BYTES / 8
    rep movsq
    mov rsp, rdx
.Lpf_rest:
    mov rdi, rsp
    call exception
    jmp trap_return

# #DF, NMI, #MC: may come between a SYSCALL or IRET and its SWAPGS, so GS is judged by its base.
trap_2:
    push 0
    push VEC_NMI
    jmp paranoid
trap_18:
    push 0
    push 18
    jmp paranoid
trap_8:
    push VEC_DF
paranoid:
    PUSH_REGS
    xor ebx, ebx
    mov ecx, MSR_GS_BASE
    rdmsr
    test edx, edx
    js .Lparanoid_gs
    swapgs
    inc ebx
.Lparanoid_gs:
    mov rdi, rsp
    call trap_dispatch
    test ebx, ebx
    jz .Lparanoid_out
    swapgs
.Lparanoid_out:
    jmp .Ltrap_restore

# void trap_dispatch(struct trap_frame *frame)
# Interrupts off, kernel GS.
trap_dispatch:
    mov eax, [rdi+TF_VEC]
    cmp eax, VEC_TIMER
    je timer_interrupt
    cmp eax, VEC_SHOOTDOWN
    je shootdown_interrupt
    cmp eax, VEC_RESCHED
    je resched_interrupt
    cmp eax, VEC_CALL
    je call_interrupt
    cmp eax, VEC_SPURIOUS
    je spurious_interrupt
    cmp eax, VEC_NMI
    je nmi_interrupt
    cmp eax, VEC_DF
    je double_fault

# void exception(struct trap_frame *frame)
# In the kernel: resume at the thread's try_call, or panic. In ring 3: the thread is killed.
exception:
    CURRENT
    test byte ptr [rdi+TF_CS], 3
    jnz .Lexc_user
    mov rcx, [rax+T_CATCH]
    test rcx, rcx
    jz .Lexc_panic
    mov rdx, [rdi+TF_VEC]
    mov [rip+fault_vec], rdx
    mov rdx, [rdi+TF_ERR]
    mov [rip+fault_err], rdx
    mov rdx, [rdi+TF_CR2]
    mov [rip+fault_cr2], rdx
    mov rdx, [rdi+TF_RIP]
    mov [rip+fault_rip], rdx
    mov rdx, [rdi+TF_RSP]
    mov [rip+fault_rsp], rdx
    mov [rip+fault_frame], rdi
    mov [rdi+TF_RSP], rcx
    lea rdx, [rip+try_caught]
    mov [rdi+TF_RIP], rdx
    ret
.Lexc_user:
    mov rdx, [rdi+TF_VEC]
    mov [rax+T_FAULT_VEC], rdx
    mov rcx, [rdi+TF_ERR]
    mov [rax+T_FAULT_ERR], rcx
    mov rcx, [rdi+TF_CR2]
    mov [rax+T_FAULT_CR2], rcx
    lea rdi, [rdx+CODE_KILLED]
    jmp thread_exit
.Lexc_panic:
    lea rsi, [rip+.Ltext_exception]
    mov rax, [rdi+TF_VEC]
    cmp rax, VEC_PF
    jne panic
    lea rsi, [rip+.Ltext_fault]
    jmp panic

# void double_fault(struct trap_frame *frame)
# On IST 1. Growth on #DF: the push that faulted was for a #PF frame; CR2 is its stack address.
double_fault:
    push rdi
    mov rdi, [rdi+TF_CR2]
    mov esi, PTE_W                      # as a #PF error code: a write to a page not present
    call stack_fault
    pop rdi
    test eax, eax
    jz .Ldf_fatal
    ret
.Ldf_fatal:
    CURRENT
    cmp qword ptr [rax+T_CATCH], 0
    jne exception
    lea rsi, [rip+.Ltext_df]
    jmp panic

# u64 stack_fault(u64 address, u64 error code)
# 1 if the address is a kernel stack's and the policy has mapped it: retry. Interrupts off.
stack_fault:
    movabs rcx, STACK_AREA
    mov rdx, rdi
    sub rdx, rcx
    xor eax, eax
    cmp rdx, STACK_AREA_BYTES
    jae .Lstack_fault_end
    mov rdx, rsi
    CURRENT
    mov rsi, [rax+T_ID]
    push rax
    inc qword ptr [rax+T_PREEMPT]
    mov eax, HYPER_STACK_FAULT
    call hypercall
    pop rcx
    dec qword ptr [rcx+T_PREEMPT]
.Lstack_fault_end:
    ret

# void nmi_interrupt(struct trap_frame *frame)
# On IST 2, further NMIs blocked until IRET.
nmi_interrupt:
    THIS_CPU
    inc qword ptr [rax+CPU_NMIS]
    mov rax, [rip+nmi_hook]
    test rax, rax
    jz .Lnmi_end
    jmp rax
.Lnmi_end:
    ret

# u64 try_call(void (*function)(u64), u64 argument)
# Call it; return -1, or the vector of the exception that ended it (details in fault_*). A fault
# unwinds to here by IRET with the interrupt flag as it was at the fault. Not reentrant.
try_call:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    CURRENT
    mov [rax+T_CATCH], rsp
    mov rax, rdi
    mov rdi, rsi
    call rax
    CURRENT
    mov qword ptr [rax+T_CATCH], 0
    mov rax, -1
    jmp .Ltry_end
try_caught:                             # rsp as saved in T_CATCH
    CURRENT
    mov qword ptr [rax+T_CATCH], 0
    mov rax, [rip+fault_vec]
.Ltry_end:
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

.section .rodata
.Ltext_exception:
    .asciz "unhandled exception"
.Ltext_fault:
    .asciz "unhandled fault"
.Ltext_df:
    .asciz "double fault"

.data
.p2align 3
nmi_hook:                               # void (*)(struct trap_frame *), or 0
    .quad 0
fault_vec:                              # what try_call caught last
    .quad 0
fault_err:
    .quad 0
fault_cr2:
    .quad 0
fault_rip:
    .quad 0
fault_rsp:
    .quad 0
fault_frame:                            # where its trap frame was
    .quad 0
