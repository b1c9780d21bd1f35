# What other CPUs, and page walks, see of a store at once: the mode `memory-order` (SDM 8.2.3.4, 10.12.3, 11.10).
#
# Store buffering: each of two CPUs stores to a word and loads the other's. Both find 0: that refutes `sc`.
# IPI: a store, and a WRMSR to the x2APIC's ICR without a fence between. The handler of the interrupt does not find the store:
# that refutes `sc`, too. Where the APIC cannot be put into x2APIC mode there are no such trials.
# Walks: a CPU maps a page that it has not had, and accesses it. A fault says that the walk has not seen its own CPU's store:
# that refutes `sc` and `tso`. Nothing refutes `tso-walks-memory`, which allows all of these.
#
# kstack's runs are sequentially consistent, and refute nothing here. What its modes allow is found by exploring the bodies.

.equ BATCHES,       64
.equ BATCH,         256                 # trials that the CPUs make without meeting: somewhere in them they are in step
.equ BUFFERED,      16384               # trials: BATCHES * BATCH
.equ SENT,          500
.equ WALKED,        500
.equ SKEW,          4                   # instructions by which CPU 0 begins later, for each batch
.equ APIC_BASE_X2,  0x400               # EXTD
.equ MSR_X2_EOI,    0x80b
.equ MSR_X2_ICR,    0x830
.equ PROBE_ICR,     0x4040              # assert, fixed, VEC_PROBE

.text
probe_main:
    push rbx
    push r12
    push r13
    push r14
    push r15
    xor r12d, r12d                      # events against sc
    xor r13d, r13d                      # trials of these
    call walks
    cmp dword ptr [rip+second_here], 0
    je .Lorder_verdict
    call buffers
    call sends
.Lorder_verdict:
    lea rdi, [rip+.Lorder_sc]
    mov rsi, r12
    add rsi, r15
    lea rdx, [r13+WALKED]
    call mode_verdict
    lea rdi, [rip+.Lorder_tso]
    mov rsi, r15
    mov edx, WALKED
    call mode_verdict
    lea rdi, [rip+.Lorder_walks]
    xor esi, esi
    mov edx, WALKED
    call mode_verdict
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    ret

# "store buffering: 3 of 2000", and into r12 and r13
say_events:
    add r12, rsi
    add r13, rdx
    push rsi
    push rdx
    call print
    pop rsi
    pop rdi
    call of_trials
    lea rdi, [rip+probe_newline]
    jmp print

# --- walks: r15 = faults

walks:
    xor r15d, r15d
    mov r14d, WALKED
    push r12
.Lorder_walk:
    FORGET
    ENTRY rax, frame_a, ENTRY_USED
    xor r12d, r12d
    BODY_ENTERED
    xor ebp, ebp
    bt r12d, 0
    adc r15, 0
    dec r14d
    jnz .Lorder_walk
    pop r12
    lea rdi, [rip+.Lorder_walked]
    call print
    mov rdi, r15
    mov esi, WALKED
    call of_trials
    lea rdi, [rip+probe_newline]
    jmp print

# --- store buffers

buffers:
    lea rdi, [rip+buffers_second]
    call second_begin
    xor r10d, r10d                      # both have found 0
    xor r11d, r11d                      # CPUs that have met
    mov r14d, BATCHES
.Lorder_batch:
    lea rsi, [rip+words_x]
    lea rbx, [rip+words_y]
    lea rdi, [rip+found_0]
    imul ecx, r14d, SKEW
    call batch
    call count
    dec r14d
    jnz .Lorder_batch
    call second_wait
    lea rdi, [rip+.Lorder_buffers]
    mov esi, r10d
    mov edx, BUFFERED
    jmp say_events
buffers_second:
    xor r11d, r11d
    mov r14d, BATCHES
.Lorder_second:
    lea rsi, [rip+words_y]
    lea rbx, [rip+words_x]
    lea rdi, [rip+found_1]
    mov ecx, BATCHES*SKEW/2
    call batch
    dec r14d
    jnz .Lorder_second
    ret

# A batch on either CPU: its own words at rsi, the other's at rbx, what it finds to rdi; ecx: how late it begins. First each
# reads the other's words, so that both have the lines: then loads are quick, and stores wait for the other's to go.
batch:
    mov r9d, ecx
    xor eax, eax
.Lorder_clear:
    mov qword ptr [rsi+rax], 0
    add eax, 64
    cmp eax, BATCH*64
    jb .Lorder_clear
    call meet
    xor eax, eax
.Lorder_share:
    mov r8, [rbx+rax]
    add eax, 64
    cmp eax, BATCH*64
    jb .Lorder_share
    call meet
.Lorder_skew:
    dec r9d
    jnz .Lorder_skew
    mov ecx, BATCH
.Lorder_one:
    BODY_BUFFERED
    mov [rdi], r8
    add rsi, 64
    add rbx, 64
    add rdi, 8
    dec ecx
    jnz .Lorder_one
# Until both CPUs are here. r11 counts.
meet:
    lock inc dword ptr [rip+met]
    add r11d, 2
    jmp .Lorder_met
.Lorder_meet:
    pause
.Lorder_met:
    cmp [rip+met], r11d
    jb .Lorder_meet
    ret

# Trials of a batch in which both CPUs have found 0, into r10.
count:
    lea rsi, [rip+found_0]
    lea rdi, [rip+found_1]
    mov ecx, BATCH
.Lorder_count:
    mov rax, [rsi+rcx*8-8]
    or rax, [rdi+rcx*8-8]
    jnz .Lorder_counted
    inc r10d
.Lorder_counted:
    dec ecx
    jnz .Lorder_count
    ret

# --- IPIs

sends:
    call x2apic_on
    jc .Lorder_no_sends
    lea rax, [rip+interrupt]
    mov [rip+interrupt_hook], rax
    lea rdi, [rip+listen]
    call second_begin
    xor r10d, r10d                      # handlers that have not found the store
    mov r14d, SENT
.Lorder_send:
    mov qword ptr [rip+word_x], 0
    mov qword ptr [rip+answered], 0
    mfence
    mov ecx, MSR_X2_ICR
    mov edx, [rip+second_id]
    mov eax, PROBE_ICR
    mov qword ptr [rip+word_x], 1
    wrmsr
.Lorder_answer:
    pause
    cmp qword ptr [rip+answered], 0
    je .Lorder_answer
    cmp qword ptr [rip+result], 0
    jne .Lorder_found
    inc r10d
.Lorder_found:
    dec r14d
    jnz .Lorder_send
    mov dword ptr [rip+listens], 0
    call second_wait
    lea rdi, [rip+.Lorder_ipis]
    mov esi, r10d
    mov edx, SENT
    jmp say_events
.Lorder_no_sends:
    ret
listen:
    call x2apic_on
    sti
.Lorder_listen:
    pause
    cmp dword ptr [rip+listens], 0
    jne .Lorder_listen
    cli
    ret
interrupt:
    push rax
    push rcx
    push rdx
    mov rax, [rip+word_x]
    mov [rip+result], rax
    mov ecx, MSR_X2_EOI
    xor eax, eax
    xor edx, edx
    wrmsr
    mov qword ptr [rip+answered], 1
    pop rdx
    pop rcx
    pop rax
    iretq

# This CPU's APIC in x2APIC mode. CF = 1 if it cannot be.
x2apic_on:
    lea rbp, [rip+.Lorder_no_x2]
    mov ecx, MSR_APIC_BASE
    rdmsr
    or eax, APIC_BASE_X2
    wrmsr
    rdmsr
    bt eax, 10                          # EXTD
    cmc
    jmp .Lorder_x2
.Lorder_no_x2:
    stc
.Lorder_x2:
    mov ebp, 0
    ret

.section .rodata
probe_name:
    .asciz "memory-order"
.Lorder_buffers:
    .asciz "both found 0: "
.Lorder_ipis:
    .asciz "an IPI before a store: "
.Lorder_walked:
    .asciz "walks before a store: "
.Lorder_sc:
    .asciz "memory-order=sc"
.Lorder_tso:
    .asciz "memory-order=tso"
.Lorder_walks:
    .asciz "memory-order=tso-walks-memory"

.data
.p2align 6
word_x:
    .zero 64
met:                                    # how often a CPU has been there
    .zero 64
result:                                 # what CPU 1 has found
    .quad 0
answered:
    .quad 0
listens:
    .long 1

.bss
.p2align 12
words_x:                                # BATCH * 64
    .zero 16384
words_y:
    .zero 16384
found_0:                                # BATCH * 8
    .zero 2048
found_1:
    .zero 2048
