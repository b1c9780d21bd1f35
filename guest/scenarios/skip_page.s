# A frame that jumps over a page, and touches its lower end first.
#
# As a function with a large local array does: the stack pointer goes down by more than a page at once,
# and the first access is at the new stack pointer; the page or two in between come later. A policy that
# grows on faults must map what was faulted on, and may map what was skipped; whatever it does, each
# page must be one frame, and no frame may be lost. Between the jumps the stack comes up and another
# thread (the hog) takes frames.

.equ SYS_JUMP,      65                  # jump(round)
.equ SYS_REST,      66
.equ A_ROUNDS,      0x424106            # six of jump, rest
.equ MAGIC,         0x534b495000000000  # "SKIP"; plus the round

.text
# u64 skip_jump(u64 round)
skip_jump:
    push rbx
    push rbp
    push r12
    mov rbx, rdi
    mov rbp, rsp
    mov edi, 13*1024
    call stack_request
    test rax, rax
    jz .Ljump_refused
    lea rcx, [rip+skip_bytes]
    mov r12, [rcx+rbx*8]
    movabs rdx, MAGIC
    add rdx, rbx
    sub rsp, r12
    mov [rsp], rdx                      # the access in question
    mov rcx, rsp                        # then each page from below
.Ljump_touch:
    mov [rcx], rdx
    add rcx, 512
    cmp rcx, rbp
    jb .Ljump_touch
    lea rdi, [rip+.Levent_jumped]
    call event
    call schedule
    movabs rdx, MAGIC
    add rdx, rbx
    mov rcx, rsp
.Ljump_check:
    cmp rdx, [rcx]
    je .Ljump_right
    lock inc qword ptr [rip+wrong_count]
.Ljump_right:
    add rcx, 512
    cmp rcx, rbp
    jb .Ljump_check
    mov rsp, rbp
    inc qword ptr [rip+round_count]
    xor eax, eax
    jmp .Ljump_end
.Ljump_refused:
    mov eax, 1
.Ljump_end:
    pop r12
    pop rbp
    pop rbx
    ret

.section .rodata
scenario_name:
    .asciz "skip-page"
.Levent_jumped:
    .asciz "jumped"
.p2align 3
scenario_threads:
    .quad user_rounds, A_ROUNDS, 0
    .quad user_rounds, A_ROUNDS, 0
    .quad 0
scenario_calls:
    .quad hog_dive
    .quad skip_jump
    .quad call_hog
    .quad 0
skip_bytes:                             # how far each round jumps
    .quad 8208, 12304, 4112, 12304, 8208, 12304
.data
.p2align 3
scenario_conductor:
    .quad 0
scenario_tick:
    .long 0
.p2align 3
scenario_pool:
    .quad POOL_PAGES
