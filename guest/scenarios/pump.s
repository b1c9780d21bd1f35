# The pump: a thread sleeps in the extra stack on CPU 0 and wakes on CPU 1, over and over.
#
# A goes deep on CPU 0 and moves to CPU 1 there; it comes up and gives the CPU up there, so that a
# policy puts the extra pages into CPU 1's pool; then it goes back to CPU 0 with a shallow stack and
# takes new ones from CPU 0's pool. Its two extra pages in use move one way each round, none the other. (A
# policy that maps on entry and unmaps on exit carries as many back: it enters on CPU 1 too.)
#
# The pool of 512 pages lasts for about 250 rounds of a policy that never evens its pools out. pump_once.s
# makes fewer, so what it shows there is the imbalance; pump_long.s makes more.

.equ SYS_AWAY,      64                  # away(round)
.equ SYS_HOME,      65
.equ DEPTH,         10                  # KiB
.equ CANARY,        0x50554d5000000000  # "PUMP"; plus the round

.text
# u64 pump_away(u64 round)
pump_away:
    mov esi, DEPTH
    lea rdx, [rip+pump_asleep]
    call ask_deep
    inc qword ptr [rip+round_count]
    ret
pump_asleep:
    push rbx
    movabs rbx, CANARY
    add rbx, rdi
    push rbx
    mov edi, 1
    call set_cpu
    pop rax
    cmp rax, rbx                        # what it left on its stack came along
    je .Lasleep_right
    lock inc qword ptr [rip+wrong_count]
.Lasleep_right:
    xor eax, eax
    pop rbx
    ret

# u64 pump_home(void)
pump_home:
    xor edi, edi
    call set_cpu
    xor eax, eax
    ret

.section .rodata
.p2align 3
scenario_calls:
    .quad pump_away
    .quad pump_home
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
