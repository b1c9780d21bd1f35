# System calls of the depths that were published, with a canary in every frame.
#
# Two threads a CPU make system calls whose depths come from a table: of 96, two stay within 2 KiB, 92
# within 4 KiB, one goes to 8 KiB and one a little beyond: 97.9 % within 4 KiB, as the kstack counters
# of Linux 6.12 showed on an Intel machine. Every 256 bytes of a call carry a canary
# made of the thread, the call and the place, checked on the way back. Every eighth call gives the
# CPU up at its deepest point, so that the other thread runs while this one is deep.

.equ SYS_DIVE,      64                  # dive(call, thread << 16 | step of 256 bytes to go)
.equ CALLS,         96                  # a thread, once through the table
.equ STEP_BYTES,    256
.equ CANARY,        0x4b53000000000000

.text
# u64 deep_dive(u64 call, u64 thread << 16 | steps)
deep_dive:
    push rbx
    push r12
    push r13
    mov rbx, rdi
    mov r12, rsi
    movzx r13d, si                      # steps to go
    mov rdi, r13
    inc edi
    shl rdi, 8                          # STEP_BYTES
    add rdi, 1024                       # for what is called at the deepest point
    call stack_request
    test rax, rax
    jz .Ldeep_refused
    shr r12, 16
    shl r12, 32                         # canary: thread, call, step
    shl rbx, 16
    or r12, rbx
    movabs rax, CANARY
    or r12, rax
    mov rdi, r13
    mov rsi, r12
    call deep_step
    lock inc qword ptr [rip+round_count]
.Ldeep_refused:                         # "no" is an answer: the call is not made
    xor eax, eax
    pop r13
    pop r12
    pop rbx
    ret

# u64 deep_step(u64 steps, u64 canary)
deep_step:
    sub rsp, STEP_BYTES-8
    lea rax, [rdi+rsi]
    mov [rsp], rax
    mov [rsp+STEP_BYTES-16], rax
    dec rdi
    jz .Lstep_bottom
    call deep_step
    jmp .Lstep_check
.Lstep_bottom:
    bt rsi, 16                          # bits 16 to 18: the call's number modulo 8
    jc .Lstep_check
    bt rsi, 17
    jc .Lstep_check
    bt rsi, 18
    jc .Lstep_check
    push rsi
    push rdi
    call schedule
    pop rdi
    pop rsi
.Lstep_check:
    inc rdi
    lea rax, [rdi+rsi]
    cmp rax, [rsp]
    jne .Lstep_wrong
    cmp rax, [rsp+STEP_BYTES-16]
    je .Lstep_out
.Lstep_wrong:
    lock inc qword ptr [rip+wrong_count]
.Lstep_out:
    add rsp, STEP_BYTES-8
    ret

# ---- ring 3
.p2align 12, 0x90
deep_user:                              # rdi = thread, 0 to 3
    mov r14, rdi
    shl r14, 16
    lea r13, [rdi+rdi*2]
    shl r13, 2                          # threads start at different places in the table
    xor ebx, ebx
.Luser_call:
    mov rdi, rbx
    lea rcx, [rip+deep_table]
    movzx esi, byte ptr [rcx+r13]
    or rsi, r14
    mov eax, SYS_DIVE
    syscall
    test rax, rax
    jnz .Luser_exit
    inc r13d
    cmp r13d, CALLS
    jb .Luser_next
    xor r13d, r13d
.Luser_next:
    inc ebx
    xor eax, eax
    cmp ebx, CALLS
    jb .Luser_call
.Luser_exit:
    mov rdi, rax
    mov eax, SYS_EXIT
    syscall
# Steps of 256 bytes below the entry's own 400. The two deep ones are an odd number of calls apart: a
# LIFO pool deals the same frames to every second call.
deep_table:
    .byte 9, 8, 10, 12, 7, 9, 11, 8, 9, 10, 8, 7
    .byte 12, 9, 8, 11, 10, 9, 8, 28, 7, 9, 10, 8
    .byte 11, 9, 12, 8, 10, 9, 7, 8, 9, 10, 11, 8
    .byte 9, 4, 8, 10, 9, 12, 8, 9, 7, 10, 8, 9
    .byte 10, 8, 9, 7, 12, 9, 8, 10, 9, 11, 8, 7
    .byte 8, 9, 10, 8, 38, 9, 7, 11, 8, 9, 10, 8
    .byte 9, 8, 12, 10, 7, 4, 8, 9, 11, 8, 10, 9
    .byte 8, 10, 9, 7, 8, 9, 12, 8, 10, 9, 8, 11
.p2align 12, 0x90

.section .rodata
scenario_name:
    .asciz "deep"
.p2align 3
scenario_threads:
    .quad deep_user, 0, 0
    .quad deep_user, 1, 1
    .quad deep_user, 2, 0
    .quad deep_user, 3, 1
    .quad 0
scenario_calls:
    .quad deep_dive
    .quad 0
.data
.p2align 3
scenario_conductor:
    .quad 0
scenario_tick:
    .long 0
.p2align 3
scenario_pool:
    .quad POOL_PAGES
