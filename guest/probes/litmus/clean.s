# A page that has been read, so that its entry can be cached with D clear, is written behind an exchange of the entry
# (probe-dirty-rewalk).
.text
pages_set:
    P_SET page_x, page_x, ENTRY_CLEAN
    P_SET page_y, page_y, ENTRY_USED
    ret
pages_begin:
program_0:
    L_READY page_y, ENTRY_USED
    BODY_CLEAN
    jmp litmus_end
pages_end:
.section .rodata
litmus_programs:
    .quad program_0, 0
