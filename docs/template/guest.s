.text                                   # a guest of your own, linked with kstack's kernel
scenario_main:                          # in a kernel thread on CPU 0; returns 0 = pass
    push 42
    lea rdi, [rip+passed]
    cmp qword ptr [rsp], 42
    je .Lsay
    lea rdi, [rip+failed]
.Lsay:
    call print
    pop rax
    xor eax, eax
    ret
.section .rodata
passed: .asciz "PASS stack: what was pushed is there\n"
failed: .asciz "FAIL stack: what was pushed is there\n"
.p2align 3
scenario_pool:  .quad 48                # pages for the stack policy
scenario_tick:  .long 0                 # no timer
