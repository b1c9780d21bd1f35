# A backtrace from another CPU: reads a thread's whole stack, page by page, whatever is there.
#
# A (CPU 0) goes deep, yields there, comes up and yields again, so that its stack shrinks and grows all
# the time. B (CPU 1) reads every page of A's stack meanwhile, waiting for nothing, as an unwinder
# called by an NMI or a cross-call would. What it reads has no meaning, and a page that is not mapped
# is a #PF, which is caught and counted. So B's accesses fall into the time between the clearing of an
# entry and the last acknowledgement, too, which no scenario that waits for A can reach: B's interrupts
# are off for each sweep, so it acknowledges late.

.equ SYS_GROW,      65                  # grow(round)
.equ SYS_UNWIND,    66                  # unwind()
.equ SYS_REST,      67
.equ SYS_NOTHING,   68
.equ A_ROUNDS,      0x4344434108        # eight of grow, rest, nothing, rest
.equ B_ROUNDS,      0x4201
.equ ROUNDS,        8
.equ DEPTH,         11                  # KiB
.equ SWEEPS,        12000               # until B gives up
.equ MAGIC,         0x554e57494e440000  # "UNWIND"; plus the round

.text
# u64 unwinder_grow(u64 round)
# A.
unwinder_grow:
    CURRENT
    mov [rip+unwound_thread], rax
    mov esi, DEPTH
    lea rdx, [rip+unwinder_deep]
    call ask_deep
    inc qword ptr [rip+round_count]
    cmp qword ptr [rip+round_count], ROUNDS
    jb .Lgrow_end
    push rax
    lea rdi, [rip+unwound]              # B reads this stack: it has to be there until then
    mov esi, 1
    call gate_spin
    pop rax
.Lgrow_end:
    ret
unwinder_deep:
    push rbx
    movabs rbx, MAGIC
    add rbx, rdi
    push rbx
    call schedule
    pop rax
    cmp rax, rbx
    je .Ldeep_right
    lock inc qword ptr [rip+wrong_count]
.Ldeep_right:
    xor eax, eax
    pop rbx
    ret

# u64 unwinder_unwind(void)
# B, until A has done its rounds.
unwinder_unwind:
    push rbx
    push r12
    push r13
    lea rdi, [rip+unwound_thread]
    mov esi, 1
    call wait_for
    mov rax, [rip+unwound_thread]
    mov r12, [rax+T_STACK]
    mov r13d, SWEEPS
.Lunwind_sweep:
    cli
    mov ebx, 4
.Lunwind_page:
    dec ebx
    mov rsi, rbx
    shl rsi, 12                         # PAGE_SIZE
    add rsi, r12
    lea rdi, [rip+unwinder_read]
    call try_call
    cmp rax, VEC_PF
    jne .Lunwind_read
    inc qword ptr [rip+unmapped]
.Lunwind_read:
    test ebx, ebx
    jnz .Lunwind_page
    sti
    cmp qword ptr [rip+round_count], ROUNDS
    jae .Lunwind_end
    dec r13d
    jnz .Lunwind_sweep
    jmp give_up
.Lunwind_end:
    lea rdi, [rip+.Lunwinder_text_unmapped]
    call say
    mov rdi, [rip+unmapped]
    call print_dec
    lea rdi, [rip+.Lunwinder_text_newline]
    call print
    lea rdi, [rip+unwound]
    call gate_raise
    xor eax, eax
    pop r13
    pop r12
    pop rbx
    ret
# void unwinder_read(u64 page)
unwinder_read:
    mov rax, [rdi]                      # the accesses in question
    mov rax, [rdi+PAGE_SIZE/2]
    mov rax, [rdi+PAGE_SIZE-64]
    ret

.section .rodata
scenario_name:
    .asciz "unwinder"
.Lunwinder_text_unmapped:
    .asciz ": pages that were not mapped "
.Lunwinder_text_newline:
    .asciz "\n"
.p2align 3
scenario_threads:
    .quad user_rounds, B_ROUNDS, 1
    .quad user_rounds, A_ROUNDS, 0
    .quad 0
scenario_calls:
    .quad hog_dive
    .quad unwinder_grow
    .quad unwinder_unwind
    .quad call_hog
    .quad call_nothing
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
.bss
.p2align 3
unwound_thread:
    .zero 8
unmapped:                               # pages that were not there
    .zero 8
unwound:                                # B has done
    .zero GATE_BYTES
