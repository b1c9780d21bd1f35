"""What the manuals give a name: registers, bits, vectors, MSR numbers, page-table entries and descriptors, once each.

One concept a module, with the names and sections of the Intel SDM (volume 3A where no volume is named); AMD's where Intel has
none. Nothing here has behaviour beyond taking a word apart, and nothing here imports another room.

Bits are `IntEnum` and not `IntFlag`: a mask with one gives a plain int, so that state stays plain, and costs a tenth of
the time. What the hottest paths ask of each access, and what is kept in events (entries, vectors, DR6 and DR7), are plain
integers. `tests/quality/test_x86_constants.py` finds such a number where another room writes it out.
"""
