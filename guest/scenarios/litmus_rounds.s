# Two threads of one CPU are switched out in turn; CPU 1 has read an item of the second one, and is switched once at any
# moment: what is deferred second is queued while the first still is. Then the pages are there again, in other frames.
#
# Words: 0 address of the item, 8 B has read it, 16 published again.
.equ FIRST,         0x1111
.equ SECOND,        0x2222
.text
litmus_a:                               # CPU 0
    L_SWITCH_IN 0
    L_DEEP 1
    L_ADDRESS rbx, 1, LITMUS_DEEP
    L_PUBLISH 1, FIRST
    L_AWAIT 8, 1
    L_SWITCH_OUT 0, 256
    L_SWITCH_OUT 1, 256
    L_DEEP 0                            # takes what is free now, and writes there
    L_ADDRESS rcx, 0, LITMUS_DEEP
    mov [rcx], rcx
    L_DEEP 1
    L_PUBLISH_AGAIN 1, SECOND
    jmp litmus_end

litmus_b:                               # CPU 1
    L_READ_FIRST FIRST
    L_SWITCH_OUT 2, 256                 # a thread of its own: before, between or after the two
    L_AWAIT 16, 1
    cmp qword ptr [rbx], SECOND         # the access in question
    jne litmus_wrong
    jmp litmus_end

.section .rodata
scenario_name:
    .asciz "litmus-rounds"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .quad 3
litmus_programs:
    .quad litmus_a, litmus_b, 0
