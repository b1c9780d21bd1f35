# What a trial does in the moment that matters, as macros: a probe image makes trials of it, and a litmus scenario
# (litmus_*.s beside this file) lets `kstack explore` go through all its interleavings under each mode.
#
# Where an accessed bit, a fault or a stale word is an event that refutes a mode, explore says that no interleaving has that
# outcome under the mode: tests/machine/test_probe_bodies.py compares the two.
#
#   rbx   linear address of the page in question
#   rdx   address of its leaf entry
#   rax   the entry that is stored there
#   rsi   address of a word, 0, by which one CPU tells the other one
#   r8, r9, r10   results; bit n of r12: access n has faulted (set before each, so that it stays set behind a fault)
#
# A fault goes on at rbp (lib_probe.s, lib_pages.s). Nothing else changes but rbp.

.macro BODY_TRY number, access:vararg
    lea rbp, [rip+.Lbody\@]
    bts r12, \number
    \access
    btr r12, \number
.Lbody\@:
.endm
.macro BODY_TELL
    mov qword ptr [rsi], 1
.endm
.macro BODY_HEAR
    jmp .Lhear\@
.Lwait\@:
    pause
.Lhear\@:
    cmp qword ptr [rsi], 0
    je .Lwait\@
.endm

# Taken: the entry is exchanged for another one, and nobody invalidates. r8 = the entry before; r9 = the word that an access
# finds. On one CPU; or CPU 0 takes, and CPU 1 looks.
.macro BODY_TAKE
    mov r8, rax
    xchg r8, [rdx]
.endm
.macro BODY_TAKEN
    BODY_TAKE
    mov r9, [rbx]
.endm
.macro BODY_TAKEN_0
    BODY_TAKE
    BODY_TELL
.endm
.macro BODY_TAKEN_1
    BODY_HEAR
    mov r9, [rbx]
.endm

# Clean: the same with a write behind the access; access 0 faults if the new entry is not present.
.macro BODY_CLEAN
    BODY_TAKE
    mov r9, [rbx]
    BODY_TRY 0, mov [rbx], r10
.endm

# Appear: P goes from 0 to 1, and nobody invalidates. Access 0 before, access 1 behind that.
.macro BODY_APPEAR
    BODY_TRY 0, mov r8, [rbx]
    mov [rdx], rax
    BODY_TRY 1, mov r9, [rbx]
.endm
.macro BODY_APPEAR_0
    mov [rdx], rax
    BODY_TELL
.endm
.macro BODY_APPEAR_1
    BODY_HEAR
    BODY_TRY 1, mov r9, [rbx]
.endm

# Grow: a page that can be read becomes writable, and nobody invalidates. Two writes.
.macro BODY_GROW
    mov r8, [rbx]
    mov [rdx], rax
    BODY_TRY 0, mov [rbx], r10
    BODY_TRY 1, mov [rbx], r10
.endm

# Entered: a page that was not mapped is mapped and accessed by the same CPU.
.macro BODY_ENTERED
    mov [rdx], rax
    BODY_TRY 0, mov r9, [rbx]
.endm

# Store buffers: each CPU stores to the word at rsi, then loads that at rbx, which is the other's.
.macro BODY_BUFFERED
    mov qword ptr [rsi], 1
    mov r8, [rbx]
.endm
