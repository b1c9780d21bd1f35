"""What this processor does where the manuals leave it open: trials in user space that refute readings.

    questions   what is asked, and the trials that answer it
    gadgets.s   the machine code that is tried; `code` assembles it
    child       the process that tries it, in the pages of `memory`, by the recipes of `recipe`
    measure     asks that process
    tally       counts what was seen; `bounds` says what counts say of rates
    controls    what must hold for the counts to mean anything
    evidence    what was seen that a reading says never happens
    verdict     which readings are refuted, and to which the trials point
    result      all of it; `document` writes it, `file` reads it again
    taken       what `--modes-from` takes of a file, and what results must say then

The method: Linux clears Accessed without a flush (`/proc/self/clear_refs`) and shows it (`Referenced` in `/proc/self/smaps`); how long
a line takes to load tells whether something has brought it in; and whether a load sets Accessed again tells whether it had to
walk, or found a translation in the TLB. So what never retired is seen by what it left behind. No root is needed, and nothing but this
process's own memory is touched.

Not asked, since it needs a kernel of one's own: entries above the last level, translations of another frame than the tables
have by now, other modes than `speculation` and `dirty-rewalk`. A hypervisor that shadows page tables answers for itself.
"""
