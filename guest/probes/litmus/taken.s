# An entry is exchanged on one CPU, and another one, which has been told, accesses the page (probe-speculation).
# FIRST is the entry at first.
.text
pages_set:
    P_SET page_x, page_x, FIRST
    P_SET page_y, page_y, ENTRY_USED
    ret
pages_begin:
program_0:
    L_READY page_y, ENTRY_USED
    BODY_TAKEN_0
    jmp litmus_end
program_1:
    L_READY page_y, ENTRY_USED
    BODY_TAKEN_1
    jmp litmus_end
pages_end:
.section .rodata
litmus_programs:
    .quad program_0, program_1, 0
