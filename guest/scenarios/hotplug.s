# A CPU goes offline with pages in its pool and translations in its TLB, and comes back.
#
# A (CPU 0) publishes an item on its stack, round after round, and sleeps until it was read; in between
# its stack shrinks. B goes as deep itself on whatever CPU it is, and reads A's item there: rounds 0 and
# 1 on CPU 1, whose pool it is the first to use; then it moves to CPU 0 and takes CPU 1 offline for
# rounds 2 and 3; then it brings it back and goes on there. The pages that B had on CPU 1 stay in that
# pool meanwhile.
#
# Offline is a halt with interrupts off, out of which an NMI leads. CPU 1 flushes its TLB first and then
# acknowledges all shootdowns that will come, so that nobody waits for it; back again, it acknowledges
# one by one from the moment at which it flushes once more.

.equ SYS_SHARE,     65                  # share(round)
.equ SYS_READ,      66                  # read(round)
.equ SYS_REST,      67
.equ SYS_NOTHING,   68
.equ A_ROUNDS,      0x44434106          # six of share, rest, nothing
.equ B_ROUNDS,      0x4206
.equ OFF_ROUND,     2
.equ ON_ROUND,      4
.equ DEPTH,         6                   # KiB
.equ ACK_ALL,       0x7fffffff
.equ MAGIC,         0x504c554700000000  # "PLUG"; plus the round

.text
# u64 hotplug_share(u64 round)
# A.
hotplug_share:
    mov esi, DEPTH
    lea rdx, [rip+hotplug_item]
    call ask_deep
    inc qword ptr [rip+round_count]
    ret
hotplug_item:                           # the item lives in this frame
    push rbx
    sub rsp, 16
    mov rbx, rdi
    movabs rax, MAGIC
    add rax, rbx
    mov [rsp], rax
    call share_stack
    mov [rip+item], rsp
    lea rdi, [rip+shared]
    call gate_raise
    lea rdi, [rip+.Levent_published]
    call event
    lea rdi, [rip+seen]
    lea rsi, [rbx+1]
    call gate_sleep                     # B may need this CPU
    xor eax, eax
    add rsp, 16
    pop rbx
    ret

# u64 hotplug_read(u64 round)
# B.
hotplug_read:
    push rbx
    mov rbx, rdi
    cmp rbx, OFF_ROUND
    je .Lread_off
    cmp rbx, ON_ROUND
    je .Lread_on
.Lread_go:
    mov rdi, rbx
    mov esi, DEPTH
    lea rdx, [rip+hotplug_look]
    pop rbx
    jmp ask_deep
.Lread_off:
    xor edi, edi
    call set_cpu
    mov edi, 1
    lea rsi, [rip+hotplug_park]
    xor edx, edx
    call cross_call
    lea rdi, [rip+.Levent_offline]
    call event
    jmp .Lread_go
.Lread_on:
    mov qword ptr [rip+come_back], 1
    mov edi, 1
    mov esi, ICR_NMI
    call send_ipi
    lea rdi, [rip+cpus+CPU_BYTES+CPU_ONLINE]
    mov esi, 1
    call wait_for
    mov edi, 1
    call set_cpu
    lea rdi, [rip+.Levent_online]
    call event
    jmp .Lread_go
hotplug_look:
    push rbx
    mov rbx, rdi
    lea rdi, [rip+shared]
    lea rsi, [rbx+1]
    call gate_sleep
    movabs rax, MAGIC
    add rax, rbx
    mov rcx, [rip+item]
    cmp rax, [rcx]                      # the access in question
    je .Llook_right
    lock inc qword ptr [rip+wrong_count]
.Llook_right:
    lea rdi, [rip+seen]
    call gate_raise
    lea rdi, [rip+round_count]          # somebody has to notice if A does not wake up
    lea rsi, [rbx+1]
    THIS_CPU
    cmp qword ptr [rax+CPU_ID], 0       # ... but not on A's CPU
    je .Llook_end
    call wait_for
.Llook_end:
    xor eax, eax
    pop rbx
    ret

# void hotplug_park(u64)
# On CPU 1, in its interrupt handler, interrupts off: until come_back is set and an NMI comes.
hotplug_park:
    push rbx
    push r12
    THIS_CPU
    mov rbx, rax
    lea r12, [rip+mailboxes+MAILBOX_BYTES]
    mov qword ptr [rbx+CPU_ONLINE], 0
    call tlb_flush_all
    mov qword ptr [r12+MB_ACK], ACK_ALL
    mov qword ptr [rbx+CPU_CALL_PENDING], 0 # the caller need not wait
.Lpark_halt:
    hlt
    cmp qword ptr [rip+come_back], 0
    je .Lpark_halt
    mov rax, [r12+MB_SEQ]
    mov [r12+MB_ACK], rax               # whoever posts from here on waits; what came before is flushed
    call tlb_flush_all
    mov qword ptr [rbx+CPU_ONLINE], 1
    pop r12
    pop rbx
    ret

.section .rodata
scenario_name:
    .asciz "hotplug"
.Levent_published:
    .asciz "published"
.Levent_offline:
    .asciz "offline"
.Levent_online:
    .asciz "online"
.p2align 3
scenario_threads:
    .quad user_rounds, B_ROUNDS, 1
    .quad user_rounds, A_ROUNDS, 0
    .quad 0
scenario_calls:
    .quad hog_dive
    .quad hotplug_share
    .quad hotplug_read
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
item:
    .zero 8
come_back:                              # CPU 1 shall come online again
    .zero 8
shared:
    .zero GATE_BYTES
seen:
    .zero GATE_BYTES
