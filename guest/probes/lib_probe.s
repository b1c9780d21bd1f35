# The frame of a probe image: one question to a processor, asked by trials, answered on the serial port.
#
# It learns nothing about who runs it: no CPUID leaf, no port that only some machines have is read. Ports are written, and
# the serial port's line status is read. A second CPU is found by starting it, a feature by using it and catching the fault.
#
# What it says of silicon it says of whoever translates its addresses and executes its ring 0. With nested paging (EPT,
# NPT) that is the processor, through the page tables below. A hypervisor that shadows page tables answers for its own
# TLB and its own idea of A and D, one that interprets ring 0 (TCG, kvm-pvm) for its interpreter. The image cannot
# find out which: that is for whoever starts it to know, and to write down beside the answer.
#
#   MODE name=value refuted|not-contradicted|inconclusive EVENTS of TRIALS
#   RULE name       refuted|not-contradicted|inconclusive EVENTS of TRIALS
#   CONTROL what    ok|failed EVENTS of TRIALS
#
# "Refuted" is by EVENTS that a processor of that kind cannot bring about; one is enough, but where the probe says that it
# takes all of them. "Not contradicted" proves nothing. Where a control has failed there are no verdicts.
#
# An image that links this provides
#   u64 probe_main(void)    on CPU 0, interrupts off; its return value does not matter
#   char probe_name[]
#
# Trials change 4 KiB leaves of STACK_PT alone, where nothing else is mapped (defs.s):
#
#   STACK_AREA + PROBED             the page in question
#   STACK_AREA + PROBED - 0x1000    its neighbour
#   STACK_AREA + PROBED - 0x2000    a page that is always there

.equ PROBED,        0x10000
.equ PROBED_PAGE,   0xffffc90000010000  # STACK_AREA + PROBED
.equ PROBED_ENTRY,  0xffff88800000e080  # DIRECT_BASE + STACK_PT + PROBED / 512
.equ KEPT_PAGE,     0xffffc9000000e000
.equ NEAR_PAGE,     0xffffc9000000f000
.equ ENTRY_USED,    0x8000000000000063  # NX D A W P
.equ ENTRY_CLEAN,   0x8000000000000023  # NX   A W P
.equ ENTRY_UNUSED,  0x8000000000000003  # NX     W P
.equ ENTRY_READ,    0x8000000000000021  # NX   A   P
.equ WORD_A,        0x1111              # in frame_a
.equ WORD_B,        0x2222              # in frame_b
.equ WORD_NEW,      0x3333              # what a trial stores

.equ START_SPINS,   20000               # PAUSEs that a CPU has to come after its start-up IPI
.equ INIT_SPINS,    2000
.equ VEC_PROBE,     0x40                # free for a probe's own interrupt
.equ LAST_APIC_ID,  15                  # that is looked for
.equ ICR_INIT,      0x4500              # assert, INIT
.equ ICR_STARTUP,   0x4608              # assert, start-up at page 8 (TRAMPOLINE)

.macro SAY text
    lea rdi, [rip+\text]
    call print
.endm
# register = the entry that maps a page of this image with these flags. Changes rcx
.macro ENTRY register, page, flags
    lea \register, [rip+\page]
    and \register, 0x7fffffff           # KERNEL_BASE maps physical 0
    movabs rcx, \flags
    or \register, rcx
.endm
# the page in question is mapped nowhere, here or by this CPU's TLB. rbx = its address, rdx = that of its entry
.macro FORGET
    movabs rbx, PROBED_PAGE
    movabs rdx, PROBED_ENTRY
    mov qword ptr [rdx], 0
    invlpg [rbx]
.endm

.text
# void kmain(void)
# CPU 0: boot stack, interrupts off (boot.s).
kmain:
    xor ebp, ebp
    call console_init
    call idt_init
    movabs rax, APIC_BASE
    mov edi, [rax+APIC_ID]
    shr edi, 24
    mov [rip+first_id], edi
    call cpu_here
    call pic_disable
    call apic_init
    call frames_init
    call second_start
    SAY .Lprobe_text_banner
    SAY probe_name
    SAY .Lprobe_text_cpus
    mov edi, [rip+second_here]
    inc edi
    call print_dec
    SAY probe_newline
    call probe_main
    mov edi, EXIT_PASS
    cmp dword ptr [rip+controls_failed], 0
    je shut_down
    mov edi, EXIT_FAIL
    jmp shut_down

# void ap_main(u64 APIC id)
# The second CPU (trampoline.s): does what it is asked to do, for ever.
ap_main:
    xor ebp, ebp
    call cpu_here
    call apic_init
    mov dword ptr [rip+second_here], 1
.Lprobe_serve:
    pause
    mov rax, [rip+second_job]
    test rax, rax
    jz .Lprobe_serve
    call rax
    mov qword ptr [rip+second_job], 0
    jmp .Lprobe_serve

# void cpu_here(u64 APIC id)
# This CPU's descriptors. The boot CPU's stacks are those of index 0, whatever its id (boot.s).
cpu_here:
    cmp edi, [rip+first_id]
    jne .Lprobe_index
    xor edi, edi
.Lprobe_index:
    mov rax, rdi
    shl rax, CPU_SHIFT
    lea rcx, [rip+probe_cpus]
    add rax, rcx
    mov [rax+CPU_SELF], rax
    mov [rax+CPU_ID], rdi
    mov rdi, rax
    jmp desc_init

# void second_start(void)
# Start the CPU with the lowest APIC id that comes, but this one. None need come.
second_start:
    push rbx
    movabs rdi, DIRECT_BASE+TRAMPOLINE
    lea rsi, [rip+.Lprobe_trampoline]
    mov rsi, [rsi]
    movabs rax, DIRECT_BASE
    add rsi, rax
    mov ecx, 128
    rep movsb
    mov ebx, 1
.Lprobe_next:
    cmp ebx, [rip+first_id]
    je .Lprobe_nobody
    imul rax, rbx, CPU_STACKS_BYTES     # trampoline.s, desc.s: its stacks are at other_stacks + id * CPU_STACKS_BYTES
    lea rcx, [rip+second_stacks]
    sub rcx, rax
    mov [rip+other_stacks], rcx
    mov esi, ICR_INIT
    call .Lprobe_send
    mov ecx, INIT_SPINS
    call spin
    mov esi, ICR_STARTUP
    call .Lprobe_send
    mov edx, START_SPINS
.Lprobe_await:
    pause
    cmp dword ptr [rip+second_here], 0
    jne .Lprobe_came
    dec edx
    jnz .Lprobe_await
.Lprobe_nobody:
    inc ebx
    cmp ebx, LAST_APIC_ID
    jbe .Lprobe_next
    xor ebx, ebx
.Lprobe_came:
    mov [rip+second_id], ebx
    pop rbx
    ret
.Lprobe_send:
    mov edi, ebx

# void ipi(u32 APIC id, u32 ICR low half)
# Interrupts off. Changes rax and rdi.
ipi:
    movabs rax, APIC_BASE
.Lprobe_icr:
    test dword ptr [rax+APIC_ICR_LO], ICR_PENDING
    jnz .Lprobe_icr
    shl edi, 24
    mov [rax+APIC_ICR_HI], edi
    mov [rax+APIC_ICR_LO], esi
    ret

# void second_begin(void (*job)(void)), void second_wait(void)
# Let the second CPU do something; wait until it has. The job keeps nothing but rsp, rbp.
second_begin:
    mov [rip+second_job], rdi
    ret
second_wait:
    pause
    cmp qword ptr [rip+second_job], 0
    jne second_wait
    ret

# void phase_is(u64 phase)
# Tell the other CPU that a trial has come so far. phase_wait: until the other one has said so.
phase_is:
    mov [rip+trial_phase], rdi
    ret
phase_wait:
    pause
    cmp [rip+trial_phase], rdi
    jne phase_wait
    ret

# void spin(u32 ecx)
# So many PAUSEs. Changes rcx.
spin:
    pause
    dec ecx
    jnz spin
    ret

# void frames_init(void)
# The pages that are always there, and what the frames hold.
frames_init:
    call frames_fill
    ENTRY rax, frame_kept, ENTRY_USED
    movabs rdx, PROBED_ENTRY
    mov [rdx-16], rax
    ENTRY rax, frame_near, ENTRY_USED
    mov [rdx-8], rax
    ret
# void frames_fill(void)
frames_fill:
    mov qword ptr [rip+frame_a], WORD_A
    mov qword ptr [rip+frame_b], WORD_B
    ret

# Faults. An instruction that may fault is put behind `lea rbp, [its end]`; it goes on there (bodies.s says how to tell).
# Any other ends the run, and so do #DF (on its IST stack) and VEC_PROBE, unless the probe has a handler in the hook.
.macro HOOKED handler, hook
\handler:
    cmp qword ptr [rip+\hook], 0
    je .Lprobe_expected
    jmp qword ptr [rip+\hook]
.endm
    HOOKED trap_14, fault_hook
    HOOKED trap_8, double_fault_hook
    HOOKED trap_probe, interrupt_hook
.Lprobe_expected:                       # an error code lies on the stack
    test rbp, rbp
    jz .Lprobe_unexpected
    mov [rsp+8], rbp
    add rsp, 8
    iretq
trap_other:
    push 0
.Lprobe_unexpected:
    SAY .Lprobe_text_unexpected
    mov rdi, [rsp+8]
    call print_hex
    SAY probe_newline
    mov edi, EXIT_PANIC
    jmp shut_down
probe_spurious:                         # no EOI (SDM 10.9)
    iretq

# void probe_eoi(void)
# Changes rax.
probe_eoi:
    movabs rax, APIC_BASE
    mov dword ptr [rax+APIC_EOI], 0
    ret

# --- what is said

# void control(const char *what, u64 events, u64 trials)
# There must be events in half of the trials.
control:
    mov eax, esi
    add rax, rax
    cmp rax, rdx
    setae al
    test rdx, rdx
    setnz cl
    and al, cl
    jmp .Lprobe_control
# void control_none(const char *what, u64 events, u64 trials)
# There must be none.
control_none:
    test rsi, rsi
    setz al
.Lprobe_control:
    movzx ecx, al
    lea r8, [rip+.Lprobe_text_ok]
    test ecx, ecx
    jnz .Lprobe_control_say
    mov dword ptr [rip+controls_failed], 1
    lea r8, [rip+.Lprobe_text_failed]
.Lprobe_control_say:
    lea r9, [rip+.Lprobe_text_control]
    jmp line

# void mode_verdict(const char *name=value, u64 events, u64 trials), rule_verdict of a rule
# Refuted by one event.
mode_verdict:
    lea r9, [rip+.Lprobe_text_mode]
    jmp .Lprobe_any
rule_verdict:
    lea r9, [rip+.Lprobe_text_rule]
.Lprobe_any:
    test rsi, rsi
    setnz al
    jmp .Lprobe_verdict
# void mode_verdict_all(const char *name=value, u64 events, u64 trials), rule_verdict_none of a rule
# Refuted if all trials are events; or by there being none, where each trial should be one.
mode_verdict_all:
    lea r9, [rip+.Lprobe_text_mode]
    cmp rsi, rdx
    sete al
    jmp .Lprobe_verdict
rule_verdict_none:
    lea r9, [rip+.Lprobe_text_rule]
    test rsi, rsi
    setz al
.Lprobe_verdict:
    lea r8, [rip+.Lprobe_text_inconclusive]
    cmp dword ptr [rip+controls_failed], 0
    jne line
    test rdx, rdx
    jz line
    lea r8, [rip+.Lprobe_text_refuted]
    test al, al
    jnz line
    lea r8, [rip+.Lprobe_text_not]

# void line(const char *what, u64 events, u64 trials; r8: how it is, r9: of which kind)
line:
    push rbx
    push r12
    push r13
    push r14
    mov rbx, rdi
    mov r12, rsi
    mov r13, rdx
    mov r14, r8
    mov rdi, r9
    call print
    mov rdi, rbx
    call print
    mov rdi, r14
    call print
    mov rdi, r12
    mov rsi, r13
    call of_trials
    SAY probe_newline
    pop r14
    pop r13
    pop r12
    pop rbx
    ret
# void of_trials(u64 events, u64 trials)
# "3 of 64", without the end of the line.
of_trials:
    push rsi
    call print_dec
    SAY .Lprobe_text_of
    pop rdi
    jmp print_dec

.section .rodata
probe_newline:
    .asciz "\n"
.Lprobe_text_banner:
    .asciz "kstack probe "
.Lprobe_text_cpus:
    .asciz ", cpus "
.Lprobe_text_of:
    .asciz " of "
.Lprobe_text_mode:
    .asciz "MODE "
.Lprobe_text_rule:
    .asciz "RULE "
.Lprobe_text_control:
    .asciz "CONTROL "
.Lprobe_text_ok:
    .asciz " ok "
.Lprobe_text_failed:
    .asciz " failed "
.Lprobe_text_refuted:
    .asciz " refuted "
.Lprobe_text_not:
    .asciz " not-contradicted "
.Lprobe_text_inconclusive:
    .asciz " inconclusive "
.Lprobe_text_unexpected:
    .asciz "UNEXPECTED exception at "
.p2align 3
.Lprobe_trampoline:
    .quad trampoline
.macro PROBE_GATE vector, ist, handler
    .quad \vector
    .long \ist, GATE_INTERRUPT
    .quad \handler
.endm
idt_table:                              # desc.s: vector; IST, gate type; handler
    PROBE_GATE VEC_DE, 0, trap_other
    PROBE_GATE VEC_DB, 0, trap_other
    PROBE_GATE VEC_BP, 0, trap_other
    PROBE_GATE VEC_UD, 0, trap_other
    PROBE_GATE VEC_DF, IST_DF, trap_8
    PROBE_GATE 10, 0, .Lprobe_unexpected
    PROBE_GATE 11, 0, .Lprobe_unexpected
    PROBE_GATE 12, 0, .Lprobe_unexpected
    PROBE_GATE VEC_GP, 0, .Lprobe_expected
    PROBE_GATE VEC_PROBE, 0, trap_probe
    PROBE_GATE VEC_SPURIOUS, 0, probe_spurious
    .quad -1

.data
.p2align 3
other_stacks:                           # desc.s, trampoline.s
    .quad 0
fault_hook:                             # handlers of #PF, #DF and VEC_PROBE, or 0
    .quad 0
double_fault_hook:
    .quad 0
interrupt_hook:
    .quad 0
second_job:                             # what the second CPU does now, or 0
    .quad 0
trial_phase:
    .quad 0
second_here:                            # 1: it has come
    .long 0
second_id:                              # its APIC id; 0 if there is none
    .long 0
first_id:
    .long 0
controls_failed:
    .long 0

.bss
.p2align 12
second_stacks:
    .zero CPU_STACKS_BYTES
frame_a:
    .zero PAGE_SIZE
frame_b:
    .zero PAGE_SIZE
frame_kept:
    .zero PAGE_SIZE
frame_near:
    .zero PAGE_SIZE
probe_cpus:                             # MAX_CPUS * CPU_BYTES; a struct cpu each
    .zero 16384
