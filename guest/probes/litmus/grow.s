# A page that can be read becomes writable, and is written twice (probe-spurious-fault).
.text
pages_set:
    P_SET page_x, page_x, ENTRY_READ
    P_SET page_y, page_y, ENTRY_USED
    ret
pages_begin:
program_0:
    L_READY page_x, ENTRY_USED
    BODY_GROW
    jmp litmus_end
pages_end:
.section .rodata
litmus_programs:
    .quad program_0, 0
