# A page is mapped and accessed by one CPU (probe-memory-order).
.text
pages_set:
    P_CLEAR page_x
    P_SET page_y, page_y, ENTRY_USED
    ret
pages_begin:
program_0:
    L_READY page_x, ENTRY_USED
    BODY_ENTERED
    jmp litmus_end
pages_end:
.section .rodata
litmus_programs:
    .quad program_0, 0
