# The header of multiboot 1, for loaders that know no PVH note: GRUB, and QEMU, which takes it before the note.
#
# Multiboot Specification 0.6.96, 3.1. With addresses (flag bit 16), since loaders refuse a 64-bit ELF file without: the
# file's sections follow each other in it as they do in memory (guest/asm/elf.py), so one copy loads them all.

.equ MULTIBOOT_MAGIC, 0x1badb002
.equ MULTIBOOT_FLAGS, 0x10000
.equ MULTIBOOT_CHECK, 0xe4514ffe        # the three add up to 0
.equ IMAGE_START,   0x100000

.section .boot
.p2align 2, 0x90
multiboot_header:
    .long MULTIBOOT_MAGIC
    .long MULTIBOOT_FLAGS
    .long MULTIBOOT_CHECK
    .long multiboot_header
    .long IMAGE_START
    .long __data_end-KERNEL_BASE
    .long __bss_end-KERNEL_BASE
    .long _start
