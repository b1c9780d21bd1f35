# Switches at every distance from a page boundary: what is touched right after the stack pointer moves.
#
# Two threads on CPU 0 take turns. Each puts its stack pointer so that the switch saves it from 128
# bytes below to 120 bytes above the boundary between its second and third page, eight bytes further
# each time (from 40 above, around), and gives the CPU up there. So the first pops of the switched-in thread, and its first
# pushes, lie on one page, on both, or exactly at the edge. A policy whose idea of "below the stack
# pointer" is off by one, or that fills less than the thread will touch at once, fails here.
#
# The switch is made in Linux's order here (switch_sp_first): stack pointer, a frame of __switch_to on the
# next thread's stack, `current`. Where that frame crosses the boundary, a stack that grows on faults
# faults while `current` is still the other thread.

.equ SYS_SWING,     64                  # swing(round)
.equ A_ROUNDS,      0x4020              # 32
.equ SWITCH_BYTES,  96                  # from a call of schedule() to the stack pointer saved
.equ FIRST_OFFSET,  168                 # 40 above the boundary
.equ MAGIC,         0x57494e444f570000  # "WINDOW"

.text
# u64 window_swing(u64 round)
window_swing:
    push rbx
    push rbp
    push r12
    mov rbx, rdi
    mov edi, 10240
    call stack_request
    test rax, rax
    jz .Lswing_refused
    mov rbp, rsp
    CURRENT
    mov r12, rax
    movabs rcx, MAGIC
    add rcx, [r12+T_ID]
    mov rax, [r12+T_TOP]
    sub rax, 2*PAGE_SIZE
    mov [rax], rcx                      # the first word above the boundary
    call window_offset
    lea rsp, [rax+rdx+SWITCH_BYTES-128]
    call schedule
    xor edi, edi
    mov esi, 2                          # and 2 KiB below where it was switched out
    lea rdx, [rip+window_bottom]
    call deep
    mov rsp, rbp
    inc qword ptr [rip+round_count]
    movabs rcx, MAGIC
    add rcx, [r12+T_ID]
    mov rax, [r12+T_TOP]
    sub rax, 2*PAGE_SIZE
    call window_offset
    lea rdx, [rax+rdx+SWITCH_BYTES-128]
    cmp rax, rdx                        # the switch itself has written below that
    jb .Lswing_well
    cmp rcx, [rax]
    je .Lswing_well
    lock inc qword ptr [rip+wrong_count]
.Lswing_well:
    xor eax, eax
    jmp .Lswing_end
.Lswing_refused:
    mov eax, 1
.Lswing_end:
    pop r12
    pop rbp
    pop rbx
    ret

# rdx = 128 + where the switch saves the stack pointer in round rbx, from the boundary up. The first round
# is one in which the page below has not been touched yet and the switch's own frame will touch it.
window_offset:
    lea rdx, [rbx*8+FIRST_OFFSET]
    and edx, 255
    ret
window_bottom:
    ret

# u64 window_conduct(void)
window_conduct:
    mov dword ptr [rip+switch_sp_first], 1
    xor eax, eax
    ret

.section .rodata
scenario_name:
    .asciz "switch-window"
.p2align 3
scenario_threads:
    .quad user_rounds, A_ROUNDS, 0
    .quad user_rounds, A_ROUNDS, 0
    .quad 0
scenario_calls:
    .quad window_swing
    .quad 0
.data
.p2align 3
scenario_conductor:
    .quad window_conduct
scenario_tick:
    .long 0
.p2align 3
scenario_pool:
    .quad POOL_PAGES
