# Memory runs out for a while, and comes back: do the pools come back too?
#
# One CPU. A, B and C are asleep in the kernel with shallow stacks. The main thread creates threads until
# there is no memory for one more, and does not let them run. Then A goes 6 KiB deep, once: what it takes
# from a pool cannot be replaced at that moment. Then the new threads run and exit, and there is memory
# for everybody. Then B goes 10 KiB deep, then C, each alone.

.equ SYS_DIVE,      64                  # dive(who)
.equ MAX_FILLERS,   40
.equ MAGIC,         0x4445434159000000  # "DECAY"

.text
# u64 decay_dive(u64 who)
# Wait for this thread's turn, go deep, tell.
decay_dive:
    push rbx
    push r12
    mov rbx, rdi
    lea rdi, [rip+ready]
    call gate_raise
    lea rdi, [rip+turn]
    lea rsi, [rbx+1]
    call gate_sleep
    mov rdi, rbx
    lea rax, [rip+depths]
    mov rsi, [rax+rbx*8]
    lea rdx, [rip+decay_bottom]
    call ask_deep
    mov r12, rax
    call schedule                       # the kernel may look after its pool here
    inc qword ptr [rip+round_count]
    lea rdi, [rip+done]
    call gate_raise
    mov rax, r12
    pop r12
    pop rbx
    ret
decay_bottom:
    push rbx
    movabs rbx, MAGIC
    add rbx, rdi
    push rbx
    call schedule
    pop rax
    cmp rax, rbx
    je .Lbottom_right
    lock inc qword ptr [rip+wrong_count]
.Lbottom_right:
    xor eax, eax
    pop rbx
    ret

# u64 decay_conduct(void)
decay_conduct:
    push rbx
    push r12
    push r13
    lea rdi, [rip+ready]
    mov esi, 3
    call gate_sleep
    xor ebx, ebx
.Lconduct_fill:
    lea rdi, [rip+filler_user]
    xor esi, esi
    xor edx, edx
    call start_user
    test rax, rax
    jz .Lconduct_full
    lea rcx, [rip+fillers]
    mov [rcx+rbx*8], rax
    inc ebx
    cmp ebx, MAX_FILLERS
    jb .Lconduct_fill
.Lconduct_full:
    lea rdi, [rip+.Levent_full]
    call event
    lea rdi, [rip+turn]                 # A
    call gate_raise
    lea rdi, [rip+done]
    mov esi, 1
    call gate_sleep                     # the new threads run, and exit, behind A
    xor r12d, r12d
    xor r13d, r13d
.Lconduct_join:
    cmp r12d, ebx
    jae .Lconduct_free
    lea rcx, [rip+fillers]
    mov rdi, [rcx+r12*8]
    call thread_join
    or r13, rax
    inc r12d
    jmp .Lconduct_join
.Lconduct_free:
    lea rdi, [rip+.Levent_free]
    call event
    mov ebx, 2
.Lconduct_turn:
    lea rdi, [rip+turn]                 # B, C
    call gate_raise
    lea rdi, [rip+done]
    mov rsi, rbx
    call gate_sleep
    inc ebx
    cmp ebx, 4
    jb .Lconduct_turn
    mov rax, r13
    pop r13
    pop r12
    pop rbx
    ret

# ---- ring 3
.p2align 12, 0x90
filler_user:
    xor edi, edi
    mov eax, SYS_EXIT
    syscall
dive_user:
    mov eax, SYS_DIVE                   # the argument says who
    syscall
    mov rdi, rax
    mov eax, SYS_EXIT
    syscall
.p2align 12, 0x90

.section .rodata
scenario_name:
    .asciz "pool-decay"
.Levent_full:
    .asciz "full"
.Levent_free:
    .asciz "free"
.p2align 3
scenario_threads:
    .quad dive_user, 0, 0
    .quad dive_user, 1, 0
    .quad dive_user, 2, 0
    .quad 0
scenario_calls:
    .quad decay_dive
    .quad 0
depths:                                 # KiB: A, B, C
    .quad 6, 10, 10
.data
.p2align 3
scenario_conductor:
    .quad decay_conduct
scenario_tick:
    .long 0
.p2align 3
scenario_pool:
    .quad 40
.bss
.p2align 3
ready:                                  # threads asleep in their system call
    .zero GATE_BYTES
turn:                                   # threads that may go
    .zero GATE_BYTES
done:
    .zero GATE_BYTES
fillers:                                # MAX_FILLERS * 8
    .zero 320
