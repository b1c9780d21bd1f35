# A quiet round before each one that shares: does an invalidation depend on sharing?
#
# A's rounds alternate. In a quiet one it enters the kernel, and may go deep, but shares nothing; then
# its pages may go, to come back as other frames. In a deep one it publishes an item, and another CPU
# reads it. A policy that invalidates only what was shared does not invalidate after a quiet round;
# that is wrong as soon as another CPU's TLB was filled in it all the same: speculatively, which no
# instruction of this guest does (the machine chooses it where it is told to), or by the thread itself
# before it migrates.
#
# quiet-then-deep: all on CPU 0, quiet rounds shallow; the reader is on CPU 1.
# quiet-then-deep-migrate: in a quiet round A is deep on CPU 0, alone; it shares on CPU 1, and the
# reader is on CPU 0, whose TLB A itself has filled.

.equ SYS_QUIET,     65
.equ SYS_SHARE,     66                  # share(round)
.equ SYS_READ,      67                  # read(round)
.equ SYS_REST,      68
.equ SYS_NOTHING,   69
.equ SYS_HOME,      70
.equ SYS_AWAY,      71
.equ MAGIC,         0x5155494554000000  # "QUIET"; plus the round
.equ DEPTH,         6                   # KiB

.text
# u64 quiet_shallow(void)
# A: nothing but being in the kernel.
quiet_shallow:
    lea rdi, [rip+.Levent_quiet]
    call event
    xor eax, eax
    ret

# u64 quiet_deep(void)
# A: as deep as in a round that shares, but nothing is told to anybody.
quiet_deep:
    mov esi, DEPTH
    lea rdx, [rip+quiet_shallow]
    jmp ask_deep

# u64 quiet_share(u64 round)
# A.
quiet_share:
    mov esi, DEPTH
    lea rdx, [rip+quiet_item]
    call ask_deep
    inc qword ptr [rip+round_count]
    ret
quiet_item:                             # the item lives in this frame
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
    call gate_spin
    xor eax, eax
    add rsp, 16
    pop rbx
    ret

# u64 quiet_read(u64 round)
# The reader.
quiet_read:
    push rbx
    mov rbx, rdi
    lea rdi, [rip+shared]
    lea rsi, [rbx+1]
    call gate_sleep                     # A may need this CPU
    movabs rax, MAGIC
    add rax, rbx
    mov rcx, [rip+item]
    cmp rax, [rcx]                      # the access in question
    je .Lread_right
    lock inc qword ptr [rip+wrong_count]
.Lread_right:
    lea rdi, [rip+seen]
    call gate_raise
    lea rdi, [rip+.Levent_read]
    call event
    xor eax, eax
    pop rbx
    ret

# u64 quiet_home(void), u64 quiet_away(void)
# A, to CPU 0 or CPU 1 with a shallow stack.
quiet_home:
    xor edi, edi
    jmp .Lquiet_move
quiet_away:
    mov edi, 1
.Lquiet_move:
    call set_cpu
    xor eax, eax
    ret

.section .rodata
.Levent_quiet:
    .asciz "quiet"
.Levent_published:
    .asciz "published"
.Levent_read:
    .asciz "read"
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
shared:
    .zero GATE_BYTES
seen:
    .zero GATE_BYTES
