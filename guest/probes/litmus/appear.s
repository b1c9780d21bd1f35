# A page is mapped on one CPU, and another one, which has been told, accesses it; it may have tried to before
# (probe-not-present).
.text
pages_set:
    P_CLEAR page_x
    P_SET page_y, page_y, ENTRY_USED
    ret
pages_begin:
program_0:
    L_READY page_x, ENTRY_USED
    BODY_APPEAR_0
    jmp litmus_end
program_1:
    L_READY page_x, ENTRY_USED
    BODY_TRY 0, mov r8, [rbx]
    BODY_APPEAR_1
    jmp litmus_end
pages_end:
.section .rodata
litmus_programs:
    .quad program_0, program_1, 0
