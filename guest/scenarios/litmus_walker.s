# Another CPU's walk, of an access that really happens, falls anywhere into a switch-out (walker_race.s): A has never touched
# the page, B reads there at any moment, C takes what is free, and B reads again. Nothing orders them but what B waits for.
#
# What B reads does not matter, nor that it faults: it catches that. It must not reach a frame that is somebody else's.
#
# Words: 0 address of A's word, 8 C has written.
.text
litmus_a:                               # CPU 0
    L_DEEP 0
    L_ADDRESS rbx, 0, LITMUS_DEEP
    mov [r15], rbx
    L_EXIT 0
    L_SWITCH_OUT 0, 256
    L_TAKE_FRAMES 1
    mov qword ptr [r15+8], 1
    jmp litmus_end

litmus_b:                               # CPU 1
    mov rbx, [r15]
    test rbx, rbx
    jz litmus_b
    lea rdi, [rip+litmus_look]
    mov rsi, rbx
    call try_call
    L_AWAIT 8, 1
    lea rdi, [rip+litmus_look]
    mov rsi, rbx
    call try_call
    jmp litmus_end

# void litmus_look(u64 *word)
litmus_look:
    mov rax, [rdi]                      # the access in question
    ret

.section .rodata
scenario_name:
    .asciz "litmus-walker"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .quad 2
litmus_programs:
    .quad litmus_a, litmus_b, 0
