/*
 * What is tried on this processor: routines in the C convention, which code.py assembles and child.py calls.
 *
 *     uint64_t routine(target, cold, decoy, rounds, alias)
 *                      rdi     rsi   rdx    rcx     r8
 *
 *     target   what is attacked: an address in the page whose entry is asked about
 *     cold     a word whose line a gadget flushes itself: what hangs on its value is decided late, and speculation is long
 *     decoy    an address in another page, whose entry nobody asks about
 *     rounds   how often a conditional jump is trained
 *     alias    the line of target by another linear address: it is flushed and reloaded here, so that neither touches the
 *              entry that is asked about.  CLFLUSH is a load to that entry (it sets Accessed): the first trap of this method
 *
 * All return how long the reload of the line took (TSC ticks), or ~0 if what should have faulted did not.
 *
 * All begin with LFENCE.  A caller's indirect call may be predicted to go to the routine that was called last; that one
 * would run transiently with this one's arguments, and bring in the line that nothing should have touched.
 */

.equ LINE, 64
.equ LAST_LINE, 4096 - 64

.equ UCONTEXT_R11, 40 + 3 * 8           # offsetof(ucontext_t, uc_mcontext.gregs) is 40; REG_R11 is 3, REG_RIP 16
.equ UCONTEXT_RIP, 40 + 16 * 8

.macro BEGIN
    lfence
    clflush [r8]
    mfence
    lfence
.endm

.macro RELOAD
    mfence
    lfence
    rdtscp
    mov     r9d, eax
    lfence
    mov     r10, [r8]
    lfence
    rdtscp
    sub     eax, r9d
    ret
.endm

/* What nothing waits for (a prefetch) needs time to arrive: RELOAD's fences do not wait for it. */
.macro ARRIVE
    mov     eax, 64
.Larrive\@:
    pause
    dec     eax
    jnz     .Larrive\@
.endm

/*
 * One instruction that never retires.  The processor predicts that RET goes behind CALL, where the instruction stands; it
 * goes elsewhere, but the store that says so hangs on the cold word.
 */
.macro BEHIND_RET, instruction:req
    clflush [rsi]
    mfence
    lfence
    call    .Lcalled\@
    \instruction
.Lstay\@:                               # speculation ends here, if it comes so far
    pause
    lfence
    jmp     .Lstay\@
.Lcalled\@:
    lea     rax, [rip + .Ldone\@]
    mov     rcx, [rsi]
    and     rcx, 0
    add     rcx, rsp
    mov     [rcx], rax
    ret
.Ldone\@:
.endm

/* Nothing, so that what happens without an attack is seen. */
nothing:
    BEGIN
    RELOAD

/* Architectural accesses. */
load:
    BEGIN
    mov     r9, [rdi]
    RELOAD

store:
    BEGIN
    mov     byte ptr [rdi], 1
    RELOAD

fetch:                                  # the page is full of RET
    BEGIN
    call    rdi
    RELOAD

/* Hints: they retire, and ask for no data. */
prefetcht0:
    BEGIN
    prefetcht0 [rdi]
    ARRIVE
    RELOAD

prefetchw:
    BEGIN
    .byte   0x0f, 0x0d, 0x0f            # prefetchw [rdi]
    ARRIVE
    RELOAD

clflush_target:
    BEGIN
    clflush [rdi]
    RELOAD

/* Accesses that never retire. */
ret_load:
    BEGIN
    BEHIND_RET "mov r9, [rdi]"
    RELOAD

ret_store:
    BEGIN
    BEHIND_RET "mov byte ptr [rdi], 1"
    RELOAD

ret_fetch:
    BEGIN
    BEHIND_RET "jmp rdi"
    RELOAD

ret_prefetch:
    BEGIN
    BEHIND_RET "prefetcht0 [rdi]"
    RELOAD

/*
 * A load behind a conditional jump.  Trained with the decoy, the jump falls through; in the last round it does not, which
 * hangs on the cold word.  No other jump of the loop tells the last round from those before, and `rounds` differs from trial
 * to trial: else the processor learns the last round too.
 */
jump_load:
    BEGIN
.Lround:
    mov     r9, rdx
    xor     eax, eax
    cmp     rcx, 1
    cmove   r9, rdi
    sete    al
    mov     [rsi], rax
    clflush [rsi]
    mfence
    lfence
    mov     rax, [rsi]
    test    rax, rax
    jnz     .Lskip
    mov     r9, [r9]
.Lskip:
    lfence
    dec     rcx
    jnz     .Lround
    RELOAD

/*
 * All lines of the page at target, upwards, so that a hardware prefetcher may go on into the next page; alias is of that one.
 * The loads are of flushed lines, in order.  The mask keeps the round that the last jump mispredicts inside the page: without
 * it, that round is a transient load of the next one.
 */
next_page:
    BEGIN
    xor     eax, eax
.Lflush:
    clflush [rdi + rax]
    add     eax, LINE
    and     eax, LAST_LINE
    jnz     .Lflush
    mfence
.Lwalk:
    lfence
    mov     r9, [rdi + rax]
    add     eax, LINE
    and     eax, LAST_LINE
    jnz     .Lwalk
    ARRIVE
    RELOAD

/*
 * Accesses that fault on rights.  The handler goes on where R11 says; where nothing faults, the trial is none.
 */
.macro FAULTING, instruction:req
    BEGIN
    mov     r10, rsp
    lea     r11, [rip + .Lfaulted\@]
    \instruction
    mov     rsp, r10
    mov     rax, -1
    ret
.Lfaulted\@:
    mov     rsp, r10
    RELOAD
.endm

faulting_store:
    FAULTING "mov byte ptr [rdi], 1"

faulting_fetch:
    FAULTING "call rdi"

handler:                                # void handler(int, siginfo_t *, ucontext_t *): SIGSEGV
    mov     rax, [rdx + UCONTEXT_R11]
    mov     [rdx + UCONTEXT_RIP], rax
    ret

/* What readies and ends a trial: an access of target that is not timed. */
touch:
    lfence
    mov     rax, [rdi]
    lfence
    ret

enter:
    lfence
    call    rdi
    lfence
    ret

/* void identify(leaf, uint32_t found[4]): CPUID. */
identify:
    push    rbx
    mov     eax, edi
    xor     ecx, ecx
    cpuid
    mov     [rsi], eax
    mov     [rsi + 4], ebx
    mov     [rsi + 8], ecx
    mov     [rsi + 12], edx
    pop     rbx
    ret
