# Calls of small depth that touch a line of each frame: what a probe at every call would touch.
#
# A loop of calls eight deep, 640 bytes each: 5 KiB, so the last one or two lie on the second page.
# Each frame is touched by an OR with zero at its lower end, as GCC's -fstack-clash-protection and Go's
# or split-stack prologues touch or compare. There is nothing to find here but a page that is missing;
# it is for the cost model.

.equ SYS_PROBE,     64                  # probe(round)
.equ A_ROUNDS,      0x400c              # twelve
.equ CALLS,         16                  # a round
.equ LEVELS,        8
.equ PROBE_BYTES,   640

.text
# u64 probe_probe(u64 round)
probe_probe:
    push rbx
    mov edi, LEVELS*PROBE_BYTES+512
    call stack_request
    test rax, rax
    jz .Lprobe_refused
    mov ebx, CALLS
.Lprobe_next:
    mov edi, LEVELS
    call probe_level
    dec ebx
    jnz .Lprobe_next
    inc qword ptr [rip+round_count]
    xor eax, eax
    pop rbx
    ret
.Lprobe_refused:
    mov eax, 1
    pop rbx
    ret
probe_level:
    sub rsp, PROBE_BYTES-8
    or qword ptr [rsp], 0
    dec rdi
    jz .Llevel_end
    call probe_level
.Llevel_end:
    add rsp, PROBE_BYTES-8
    ret

.section .rodata
scenario_name:
    .asciz "probe-cost"
.p2align 3
scenario_threads:
    .quad user_rounds, A_ROUNDS, 0
    .quad 0
scenario_calls:
    .quad probe_probe
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
