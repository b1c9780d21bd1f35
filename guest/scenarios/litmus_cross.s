# Two CPUs switch out at once, and each invalidates on the other: who waits with interrupts off waits for
# ever. Then A goes deep again and publishes at the address at which B has read before.
#
# Words: 0 address of A's item, 8 B has read it, 16 published again, 24 B has switched out.
#
# Few pages, since all of the one's steps meet all of the other's: A loses its two deepest pages, which
# come back the other way round, B one.
.equ ITEM,          0x2800              # bytes from the top: on the third page
.equ UNUSED,        0x3800              # on the fourth
.equ FIRST,         0x1111
.equ SECOND,        0x2222

.text
litmus_a:                               # CPU 0
    L_SWITCH_IN 0
    L_ENTER 0
    L_REQUEST 0, STACK_BYTES
    L_ADDRESS rbx, 0, ITEM
    mov qword ptr [rbx], FIRST
    L_ADDRESS rcx, 0, UNUSED
    mov [rcx], rcx                      # accessed: nothing is left to be chosen about its entry
    L_SHARE 0
    mov [r15], rbx                      # published
    L_AWAIT 8, 1
    L_EXIT 0
    L_SWITCH_OUT 0, 0x1800              # against B's
    L_SWITCH_IN 0
    L_ENTER 0
    L_REQUEST 0, STACK_BYTES
    L_PUBLISH_AGAIN 0, SECOND
    L_AWAIT 24, 1                       # it answers shootdowns to the end
    jmp litmus_end

litmus_b:                               # CPU 1
    L_SWITCH_IN 1
    L_ENTER 1
    L_REQUEST 1, STACK_BYTES
    L_ADDRESS rcx, 1, UNUSED
    mov [rcx], rcx                      # accessed: nothing is left to be chosen about its entry
.Lb_first:
    mov rbx, [r15]
    test rbx, rbx
    jz .Lb_first
    cmp qword ptr [rbx], FIRST
    jne litmus_wrong
    mov qword ptr [r15+8], 1
    L_SWITCH_OUT 1, 0x2800              # against A's
    mov qword ptr [r15+24], 1
    L_AWAIT 16, 1
    cmp qword ptr [rbx], SECOND         # the access in question
    jne litmus_wrong
    jmp litmus_end

.section .rodata
scenario_name:
    .asciz "litmus-cross"
.p2align 3
scenario_pool:
    .quad 48
litmus_stacks:
    .quad 2
litmus_programs:
    .quad litmus_a, litmus_b, 0
