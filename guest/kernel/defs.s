# Constants of the guest kernel: memory layout, structures, registers, vectors.
#
# Included first, so that every .equ is known before it is used (GNU as takes an unknown name in
# `mov reg, name` for a memory operand).
#
# Physical memory (64 MiB)
#
#   0x0400_0000  end of what the kernel uses; a larger page pool, if there is RAM for it
#                free frames (mem.s)
#   0x0040_0000  first free frame
#   0x0020_0000  page pool of the stack policies, 512 pages; for more than 8 CPUs it is of free frames
#   0x0010_0000  the image: .boot .text .rodata .data .bss (must end below 0x20_0000)
#   0x0000_8000  application processors' real-mode entry (copied there by ap.s)
#   0x0000_1000  the kernel's own page tables, up to 0xf000 (boot.s)
#
# Virtual memory
#
#   0xffff_ffff_c000_0000  local APIC registers, uncached
#   0xffff_ffff_8000_0000  physical 0 to 2 MiB: the image, text R-X, rodata R, the rest RW
#   0xffff_c900_0000_0000  kernel stacks, 64 slots of 32 KiB, and room for a scenario's own (up to
#                          512 MiB, its page tables too); only 4 KiB leaves ever change:
#                              +0x8000  ------------  initial stack pointer
#                                       16 KiB stack
#                              +0x4000  ------------  stack bottom
#                                       16 KiB guard, never mapped
#                              +0x0000  ------------
#   0xffff_8880_0000_0000  all RAM, 2 MiB pages, RW NX ("direct map")
#   0x0000_0000_0040_0000  a process: one page of code, one of data, one of stack

# ---- memory layout
.equ KERNEL_BASE,   0xffffffff80000000
.equ DIRECT_BASE,   0xffff888000000000
.equ STACK_AREA,    0xffffc90000000000
.equ APIC_BASE,     0xffffffffc0000000
.equ PAGE_SIZE,     4096
.equ RAM_END,       0x4000000
.equ POOL_START,    0x200000
.equ POOL_PAGES,    512
.equ POOL_BYTES,    0x200000
.equ POOL_CPU_SHIFT, 6                  # where CPUs are many, so many more that each has 64
.equ FREE_START,    0x400000
.equ TRAMPOLINE,    0x8000

.equ SLOT_BYTES,    0x8000
.equ SLOT_SHIFT,    15
.equ GUARD_BYTES,   0x4000
.equ STACK_BYTES,   0x4000
.equ STACK_SLOTS,   64
.equ STACK_AREA_BYTES, 0x20000000

.equ USER_CODE,     0x400000
.equ USER_DATA,     0x401000
.equ USER_STACK,    0x402000
.equ USER_STACK_TOP, 0x403000

# ---- the kernel's page tables, physical; zeroed and filled by boot.s
.equ KERNEL_PML4,   0x1000
.equ LOW_PDPT,      0x2000
.equ LOW_PD,        0x3000
.equ KERNEL_PDPT,   0x4000
.equ KERNEL_PD,     0x5000
.equ KERNEL_PT,     0x6000
.equ DIRECT_PDPT,   0x7000
.equ DIRECT_PD,     0x9000
.equ APIC_PD,       0xa000
.equ APIC_PT,       0xb000
.equ STACK_PDPT,    0xc000
.equ STACK_PD,      0xd000
.equ STACK_PT,      0xe000
.equ TABLES_END,    0xf000

# ---- page-table entry bits (SDM 4.5)
.equ PTE_P,         0x1
.equ PTE_W,         0x2
.equ PTE_U,         0x4
.equ PTE_A,         0x20
.equ PTE_D,         0x40
.equ PTE_PS,        0x80
.equ PTE_G,         0x100
.equ PTE_NX_BIT,    63
.equ PTE_TABLE,     0x7                 # P W U: an upper level restricts nothing
.equ PTE_KDATA,     0x8000000000000103  # NX G W P, A and D clear
.equ PTE_KRODATA,   0x8000000000000101
.equ PTE_KTEXT,     0x101
.equ PTE_UTEXT,     0x5
.equ PTE_UDATA,     0x8000000000000007
.equ PTE_FRAME_MASK, 0x000ffffffffff000

# ---- control registers (SDM 2.5) and MSRs (SDM volume 4)
.equ CR0_KERNEL,    0x80010033          # PG WP NE ET MP PE
.equ CR0_WP_BIT,    16
.equ CR4_KERNEL,    0x2a0               # OSFXSR PGE PAE
.equ CR4_PGE,       0x80
.equ EFER_KERNEL,   0x901               # NXE LME SCE
.equ MSR_APIC_BASE, 0x1b
.equ MSR_FRED_RSP0, 0x1cc               # RSP1 to RSP3 and STKLVLS follow
.equ MSR_FRED_CONFIG, 0x1d4
.equ MSR_EFER,      0xc0000080
.equ MSR_STAR,      0xc0000081
.equ MSR_LSTAR,     0xc0000082
.equ MSR_FMASK,     0xc0000084
.equ MSR_GS_BASE,   0xc0000101
.equ MSR_KERNEL_GS_BASE, 0xc0000102
.equ FLAGS_IF,      0x200
.equ FLAGS_IF_BIT,  9
.equ FLAGS_USER,    0x202               # IF; what a ring-3 program starts with
.equ FLAGS_USER_IO, 0x3202              # ... and IOPL 3: it may use ports, to mark events
.equ FMASK_VALUE,   0x47700             # AC NT IOPL DF IF TF: SYSCALL clears these

# ---- selectors (desc.s)
.equ KERNEL_CS,     0x08
.equ KERNEL_DS,     0x10
.equ USER_CS32,     0x1b
.equ USER_DS,       0x23
.equ USER_CS,       0x2b
.equ TSS_SEL,       0x30
.equ STAR_HIGH,     0x00180008          # SYSRET base 0x18, SYSCALL base 0x08

# ---- interrupt stack table indices
.equ IST_DF,        1
.equ IST_NMI,       2
.equ IST_PF,        3                   # used for #PF only if pf_ist says so

# ---- vectors
.equ VEC_DE,        0
.equ VEC_DB,        1
.equ VEC_NMI,       2
.equ VEC_BP,        3
.equ VEC_UD,        6
.equ VEC_DF,        8
.equ VEC_GP,        13
.equ VEC_PF,        14
.equ VEC_MC,        18
.equ VEC_TIMER,     0x20
.equ VEC_SHOOTDOWN, 0xf0
.equ VEC_RESCHED,   0xf1
.equ VEC_CALL,      0xf2
.equ VEC_SPURIOUS,  0xff
.equ VEC_SYSCALL,   0x100               # what a SYSCALL's trap frame carries

# ---- local APIC registers (SDM 10.4.1), offsets
.equ APIC_ID,       0x20
.equ APIC_EOI,      0xb0
.equ APIC_SVR,      0xf0
.equ APIC_ICR_LO,   0x300
.equ APIC_ICR_HI,   0x310
.equ APIC_LVT_TIMER, 0x320
.equ APIC_LVT_LINT0, 0x350
.equ APIC_LVT_LINT1, 0x360
.equ APIC_LVT_ERROR, 0x370
.equ APIC_TIMER_INIT, 0x380
.equ APIC_TIMER_DIV, 0x3e0
.equ ICR_PENDING,   0x1000
.equ ICR_NMI,       0x4400              # assert, delivery mode NMI
.equ ICR_FIXED,     0x4000              # assert, delivery mode fixed
.equ ICR_INIT_ALL,  0xc4500             # all but self, assert, INIT
.equ ICR_SIPI_ALL,  0xc4608             # all but self, assert, start-up at page 8
.equ SHOOTDOWN_ICR, 0x40f0              # ICR_FIXED + VEC_SHOOTDOWN
.equ RESCHED_ICR,   0x40f1
.equ CALL_ICR,      0x40f2
.equ TIMER_PERIODIC, 0x20020            # periodic, vector VEC_TIMER
.equ TIMER_MASKED,  0x10020
.equ TIMER_DIV_1,   0xb
.equ TICK_COUNT,    500000              # bus clocks a tick

# ---- ports
.equ COM1,          0x3f8
.equ FW_CFG_SELECT, 0x510
.equ FW_CFG_DATA,   0x511
.equ FW_CFG_NB_CPUS, 5
.equ PORT_HYPERCALL, 0xe5
.equ PORT_EXIT,     0xf4
.equ EXIT_PASS,     0x10
.equ EXIT_FAIL,     0x11
.equ EXIT_PANIC,    0x12

# ---- hypercalls (hyper.s)
.equ HYPER_ATTACHED, 0x4b535441
.equ HYPER_BOOT,    1
.equ ANSWER_DELIVERY, 3                 # of BOOT: how #PF in the kernel is to be taken
.equ DELIVERY_IST,  1
.equ DELIVERY_FRED, 2
.equ ANSWER_PCID_BIT, 2                 # ... kernel pages not global, and PCIDs
.equ HYPER_CPU_UP,  2
.equ HYPER_CREATE_THREAD, 3
.equ HYPER_ENTER_KERNEL, 4
.equ HYPER_EXIT_KERNEL, 5
.equ HYPER_SWITCH_OUT, 6
.equ HYPER_SWITCH_IN, 7
.equ HYPER_STACK_FAULT, 8
.equ HYPER_REQUEST, 9
.equ HYPER_PRESSURE, 10
.equ HYPER_EXIT_THREAD, 11
.equ HYPER_EVENT,   12
.equ HYPER_SHARE,   13
.equ HYPER_TICK,    14

.equ SWITCH_TO_BYTES, 104            # frame of __switch_to, where a scenario asks for Linux's order

# ---- struct cpu: one per CPU, GS base points at it while in the kernel
.equ MAX_CPUS,      64
.equ CPU_BYTES,     256
.equ CPU_SHIFT,     8
.equ CPU_SELF,      0                   # its own address
.equ CPU_ID,        8                   # index = local APIC id
.equ CPU_KSTACK,    16                  # stack top of the current thread (gs:16 in syscall.s)
.equ CPU_USER_RSP,  24                  # scratch of the SYSCALL entry  (gs:24 in syscall.s)
.equ CPU_THREAD,    32                  # current thread
.equ CPU_IDLE,      40                  # its idle thread
.equ CPU_RESCHED,   48                  # somebody wants schedule() to run
.equ CPU_TICKS,     56                  # timer interrupts taken
.equ CPU_RQ_LOCK,   64                  # run queue
.equ CPU_RQ_HEAD,   72
.equ CPU_RQ_TAIL,   80
.equ CPU_TSS,       88                  # its TSS
.equ CPU_ONLINE,    96
.equ CPU_CALL_FN,   104                 # cross-CPU call: function, argument, pending
.equ CPU_CALL_ARG,  112
.equ CPU_CALL_PENDING, 120
.equ CPU_CALL_LOCK, 128                 # serialises callers
.equ CPU_NMIS,      136                 # NMIs taken
.equ CPU_SPURIOUS,  144
.equ CPU_RESCHEDS,  152                 # reschedule IPIs taken
.equ CPU_SHOOTDOWNS, 160                # shootdown IPIs taken
.equ CPU_SWITCHES,  168                 # context switches

# ---- stacks of a CPU, which no policy touches: three interrupt stacks (desc.s), then that of its boot and
# idle context. CPU 0's are in the image, the others' are taken when they are started (ap.s).
.equ IST_BYTES,     4096                # #DF, NMI, #PF
.equ CPU_STACKS_BYTES, 20480
.equ CPU_STACKS_FRAMES, 5

# ---- struct thread
.equ MAX_THREADS,   64
.equ PCID_OWNERS_SHIFT, 9               # pcid.s: MAX_THREADS * 8 bytes a CPU
.equ THREAD_BYTES,  256
.equ THREAD_SHIFT,  8
.equ T_ID,          0
.equ T_STATE,       8
.equ T_RSP,         16                  # saved stack pointer while switched out
.equ T_RIP,         24                  # where to go on at that stack pointer
.equ T_STACK,       32                  # stack bottom (lowest address)
.equ T_TOP,         40                  # stack top
.equ T_CR3,         48
.equ T_CPU,         56                  # CPU whose run queue it belongs to
.equ T_PREEMPT,     64                  # > 0: not preemptible
.equ T_ON_CPU,      72                  # still being switched out, or running
.equ T_NEXT,        80                  # run-queue link
.equ T_ENTRY,       88                  # function(arg) of the thread
.equ T_ARG,         96
.equ T_USER,        104                 # user entry address, 0 for a kernel thread
.equ T_LOCK,        112                 # guards STATE against ON_CPU (sched.s)
.equ T_CODE,        120                 # exit code
.equ T_CATCH,       128                 # struct catch of try_call, 0 if faults are fatal (trap.s)
.equ T_WQ,          136                 # wait queue of joiners: lock, head, tail
.equ T_PML4,        160                 # frames of its user half: PML4 PDPT PD PT data stack
.equ T_DATA_FRAME,  192                 # ... the fifth
.equ T_IS_IDLE,     208
.equ T_TICKED,      216                 # timer ticks taken while it was current
.equ T_FAULT_VEC,   224                 # exception that killed it: vector, error code, CR2
.equ T_FAULT_ERR,   232
.equ T_FAULT_CR2,   240
.equ USER_FRAMES,   6

.equ STATE_FREE,    0
.equ STATE_RUNNABLE, 1
.equ STATE_RUNNING, 2
.equ STATE_SLEEPING, 3
.equ STATE_DEAD,    4                   # exited, its stack not yet torn down
.equ STATE_ZOMBIE,  5                   # stack gone, exit code not yet collected
.equ CODE_KILLED,   0x100               # exit code of a thread killed by a fault, plus the vector

# ---- trap frame, from the stack pointer up (trap.s, syscall.s)
.equ TF_CR2,        0
.equ TF_R15,        8
.equ TF_R14,        16
.equ TF_R13,        24
.equ TF_R12,        32
.equ TF_R11,        40
.equ TF_R10,        48
.equ TF_R9,         56
.equ TF_R8,         64
.equ TF_RBP,        72
.equ TF_RDI,        80
.equ TF_RSI,        88
.equ TF_RDX,        96
.equ TF_RCX,        104
.equ TF_RBX,        112
.equ TF_RAX,        120
.equ TF_VEC,        128
.equ TF_ERR,        136
.equ TF_RIP,        144
.equ TF_CS,         152
.equ TF_FLAGS,      160
.equ TF_RSP,        168
.equ TF_SS,         176
.equ TF_BYTES,      184

# ---- shootdown mailbox, one per CPU (ipi.s; a stack policy fills the same ones)
.equ MAILBOX_BYTES, 64
.equ MAILBOX_SHIFT, 6
.equ MB_SEQ,        0
.equ MB_START,      8
.equ MB_PAGES,      16                  # 0 = everything
.equ MB_ACK,        24

# ---- wait queue and its on-stack entry, sleeping mutex (lock.s)
.equ WQ_LOCK,       0
.equ WQ_HEAD,       8
.equ WQ_TAIL,       16
.equ WQ_BYTES,      24
.equ WE_NEXT,       0
.equ WE_THREAD,     8
.equ MX_LOCK,       0                   # a mutex begins with a wait queue
.equ MX_HELD,       24
.equ MX_BYTES,      32

# ---- system calls (syscall.s); 64 and up belong to the scenario
.equ SYS_ECHO,      0
.equ SYS_EXIT,      1
.equ SYS_YIELD,     2
.equ SYS_SETCPU,    3
.equ SYS_GETCPU,    4
.equ SYS_TICKS,     5
.equ SYS_SCENARIO,  64
.equ ENOSYS,        38

# rax = this CPU's struct cpu. Changes flags. In the kernel only (GS base is the user's outside).
.macro THIS_CPU
    xor eax, eax
    mov rax, gs:[rax]
.endm

# rax = the current thread. A thread moves to another CPU only by its own request (set_cpu), so
# being preempted between the two loads does no harm.
.macro CURRENT
    xor eax, eax
    mov rax, gs:[rax]
    mov rax, [rax+CPU_THREAD]
.endm
