# The frame of a litmus scenario: a straight program a CPU, a few dozen visible operations in all.
#
# No scheduler, no locks, no system calls: the programs make the calls that a kernel would make to its
# stack policy (out PORT_HYPERCALL), and load and store words on the stacks by address. What is not
# there cannot be interleaved, so all interleavings can be tried. The stacks belong to threads that
# exist for the policy only; they are created before the programs start.
#
# A scenario that links this provides
#   char scenario_name[]            its id
#   u64 scenario_pool               pages for the stack policy
#   u32 litmus_stacks[2]            how many stacks (threads LITMUS_THREAD, + 1, ...), bytes of each (0: STACK_BYTES)
#   void (*litmus_programs[])(void) one a CPU, ends with 0
# A program may use rax rbx rcx rdx rsi rdi r8 to r13; r15 is the address of `litmus_words`, a page of
# words that the CPUs share, r14 that of the CPU's thread struct, whose id is made that of the stack's
# thread, so that a page fault is charged to it. A program ends by `jmp litmus_end`, or `jmp litmus_wrong` if what it read is wrong.
#
# Programs run in kernel threads that nobody preempts. Interrupts are on but where a hook runs that has
# them off (L_ENTER, L_EXIT, L_SWITCH_IN). The shootdown handler here is the shortest that is right.

.equ LITMUS_THREAD, 1000                # id of the first stack's thread
.equ LITMUS_DEEP,   0x1800              # bytes from a stack's top to the middle of its second page

# address of the word `offset` bytes below the top of stack `n`, in `register`
.macro L_ADDRESS register, n, offset
    lea \register, [rip+litmus_tops]
    mov \register, [\register+\n*8]
    sub \register, \offset
.endm
.macro L_CALL function, n
    mov edi, LITMUS_THREAD+\n
    mov eax, \function
    out PORT_HYPERCALL, eax
.endm
.macro L_ENTER n
    cli
    L_CALL HYPER_ENTER_KERNEL, \n
    sti
.endm
.macro L_EXIT n
    cli
    L_CALL HYPER_EXIT_KERNEL, \n
    sti
.endm
.macro L_SWITCH_IN n
    cli
    L_CALL HYPER_SWITCH_IN, \n
    mov qword ptr [r14+T_ID], LITMUS_THREAD+\n
    sti
.endm
# is there so much stack? The program ends, not wrong, if the policy says no
.macro L_REQUEST n, bytes
    mov esi, \bytes
    L_CALL HYPER_REQUEST, \n
    test eax, eax
    jz litmus_end
.endm
# switched out with `depth` bytes of stack in use
.macro L_SWITCH_OUT n, depth
    lea rsi, [rip+litmus_tops]
    mov rsi, [rsi+\n*8]
    sub rsi, \depth
    L_CALL HYPER_SWITCH_OUT, \n
.endm
.macro L_SHARE n
    L_CALL HYPER_SHARE, \n
.endm
# thread `n` runs in a system call that has asked for LITMUS_DEEP
.macro L_DEEP n
    L_SWITCH_IN \n
    L_ENTER \n
    L_REQUEST \n, LITMUS_DEEP
.endm
# write the item at rbx, on stack `n`, and hand out its address (word 0)
.macro L_PUBLISH n, value
    mov qword ptr [rbx], \value
    L_SHARE \n
    mov [r15], rbx
.endm
# write it anew, where others have its address already (word 16)
.macro L_PUBLISH_AGAIN n, value
    mov qword ptr [rbx], \value
    L_SHARE \n
    mov qword ptr [r15+16], 1
.endm
# another thread takes what is free now, and sleeps deep
.macro L_TAKE_FRAMES n
    L_DEEP \n
    L_ADDRESS rcx, \n, LITMUS_DEEP
    mov [rcx], rcx
    L_SWITCH_OUT \n, 0x3800
.endm
.macro L_AWAIT word, value
.Lawait\@:
    cmp qword ptr [r15+\word], \value
    jne .Lawait\@
.endm
# read the item that is published first, and say so (word 8); its address stays in rbx
.macro L_READ_FIRST value
.Lfirst\@:
    mov rbx, [r15]
    test rbx, rbx
    jz .Lfirst\@
    mov rax, [rbx]
    mov qword ptr [r15+8], 1
    cmp rax, \value
    jne litmus_wrong
.endm
# thread `n` on a stack `offset` bytes above stack 0; the program ends, not wrong, if there is no memory
.macro L_CREATE n, offset
    call litmus_area                    # rdx = bytes
    L_ADDRESS rsi, 0, rdx
    .if \offset
    add rsi, \offset
    .endif
    mov ecx, 1
    L_CALL HYPER_CREATE_THREAD, \n
    test eax, eax
    jz litmus_end
.endm
# L_AWAIT with interrupts off for a while, and on again in between; they are off behind it
.macro L_AWAIT_OFF word, value
.Lsection\@:
    cli
    mov edx, 200                        # nothing that others can tell: an interrupt that comes now has to wait
.Lturn\@:
    dec edx
    jnz .Lturn\@
    cmp qword ptr [r15+\word], \value
    je .Lcame\@
    sti
    nop                                 # STI holds interrupts off for one instruction
    jmp .Lsection\@
.Lcame\@:
.endm

.text
# u64 scenario_main(void)
# Create the stacks, install the handler, start the programs, wait for all.
scenario_main:
    push rbx
    push r12
    call litmus_gate
    mov qword ptr [rip+litmus_words], 0 # no walk has to set A or D there any more
    xor ebx, ebx
.Llitmus_create:
    cmp ebx, [rip+litmus_stacks]
    jae .Llitmus_start
    call slot_alloc
    lea rcx, [rip+litmus_tops]
    lea rsi, [rax+STACK_BYTES]
    mov [rcx+rbx*8], rsi
    lea rdi, [rbx+LITMUS_THREAD]
    call litmus_area
    sub rsi, rdx
    mov ecx, 1
    mov eax, HYPER_CREATE_THREAD
    call preempt_disable_call
    inc ebx
    jmp .Llitmus_create
.Llitmus_start:
    mov ebx, 1
.Llitmus_next:
    lea rax, [rip+litmus_programs]
    mov rsi, [rax+rbx*8]
    test rsi, rsi
    jz .Llitmus_first
    cmp rbx, [rip+cpu_count]
    jae .Llitmus_alone
    lea rdi, [rip+litmus_run]
    mov rdx, rbx
    xor ecx, ecx
    call thread_create
    inc ebx
    jmp .Llitmus_next
.Llitmus_first:
    mov [rip+litmus_count], rbx
    lea rdi, [rip+litmus_programs]
    mov rdi, [rdi]
    call litmus_run
    xor eax, eax
.Llitmus_out:
    pop r12
    pop rbx
    ret
.Llitmus_alone:
    mov eax, 1
    jmp .Llitmus_out

# Bytes of a stack, in rdx; no other register changes.
litmus_area:
    mov edx, [rip+litmus_stacks+4]
    test edx, edx
    jnz .Llitmus_sized
    mov edx, STACK_BYTES
.Llitmus_sized:
    ret

# A hypercall with preemption off around it.
preempt_disable_call:
    push rax
    push rdi
    call preempt_disable
    pop rdi
    pop rax
    call hypercall
    jmp preempt_enable

# u64 litmus_run(void (*program)(void))
# On each CPU, in a kernel thread: meet the others, run the program.
litmus_run:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov rbx, rdi
    call preempt_disable
    lock inc qword ptr [rip+litmus_arrived]
.Llitmus_meet:
    pause
    mov rax, [rip+litmus_arrived]
    cmp rax, [rip+litmus_count]
    jne .Llitmus_meet
    lea r15, [rip+litmus_words]
    CURRENT
    mov r14, rax
    lea rdi, [rip+.Llitmus_event_ready]
    call event
    jmp rbx

# The end of a program. CPU 0 waits for the others and ends the run.
litmus_wrong:
    lea rdi, [rip+.Llitmus_event_wrong]
    call event
    mov edi, EXIT_FAIL
    jmp shut_down
litmus_end:
    lea rdi, [rip+.Llitmus_event_done]
    call event
    lock inc qword ptr [rip+litmus_finished]
    THIS_CPU
    cmp qword ptr [rax+CPU_ID], 0
    jne .Llitmus_stay
.Llitmus_wait:
    pause
    mov rax, [rip+litmus_finished]
    cmp rax, [rip+litmus_count]
    jne .Llitmus_wait
    xor edi, edi
    jmp shut_down
.Llitmus_stay:
    hlt
    jmp .Llitmus_stay

# void litmus_gate(void)
# The shootdown vector gets the short handler.
litmus_gate:
    sub rsp, 16
    sidt [rsp+6]
    mov rax, [rsp+8]
    add rax, VEC_SHOOTDOWN*16
    lea rdx, [rip+litmus_shootdown]
    mov [rax], dx
    mov ecx, edx
    shr ecx, 16
    mov [rax+6], cx
    shr rdx, 32
    mov [rax+8], edx
    add rsp, 16
    ret

# Answer this CPU's mailbox (ipi.s: shootdown_answer), with nothing around it.
litmus_shootdown:
    push rax
    push rcx
    push rdx
    push r8
    THIS_CPU
    mov rax, [rax+CPU_ID]
    shl rax, MAILBOX_SHIFT
    lea rdx, [rip+mailboxes]
    add rdx, rax
    mov r8, [rdx+MB_SEQ]
    mov rax, [rdx+MB_START]
    mov rcx, [rdx+MB_PAGES]
    test rcx, rcx
    jz .Lshootdown_all
.Lshootdown_page:
    invlpg [rax]
    add rax, PAGE_SIZE
    dec rcx
    jnz .Lshootdown_page
    jmp .Lshootdown_ack
.Lshootdown_all:
    mov rax, cr4
    mov rcx, rax
    and rax, -129                       # ~CR4_PGE
    mov cr4, rax
    mov cr4, rcx
.Lshootdown_ack:
    mov [rdx+MB_ACK], r8
    movabs rax, APIC_BASE
    mov dword ptr [rax+APIC_EOI], 0
    pop r8
    pop rdx
    pop rcx
    pop rax
    iretq

.section .rodata
.Llitmus_event_ready:
    .asciz "ready"
.Llitmus_event_done:
    .asciz "done"
.Llitmus_event_wrong:
    .asciz "wrong"

.data
.p2align 3
scenario_tick:
    .long 0
.bss
.p2align 3
litmus_count:                           # programs
    .zero 8
litmus_arrived:
    .zero 8
litmus_finished:
    .zero 8
    .zero 8
litmus_tops:                            # tops of the stacks
    .zero 64
.p2align 12
litmus_words:                           # what the programs share
    .zero 4096
