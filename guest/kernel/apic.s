# Interrupt controllers: this CPU's local APIC on, the 8259s off.
#
# SDM 10.4 (local APIC). Register page at APIC_BASE, xAPIC mode, uncached.

.text
# void apic_init(void)
# Enable this CPU's APIC; nothing pending, timer masked. Interrupts off.
apic_init:
    movabs rax, APIC_BASE
    mov dword ptr [rax+APIC_SVR], 0x1ff # enabled, spurious vector 0xff
    mov dword ptr [rax+APIC_LVT_TIMER], TIMER_MASKED
    mov dword ptr [rax+APIC_LVT_LINT0], 0x10000
    mov dword ptr [rax+APIC_LVT_LINT1], 0x10000
    mov dword ptr [rax+APIC_LVT_ERROR], 0x10000
    mov dword ptr [rax+APIC_EOI], 0
    ret

# void pic_disable(void)
# Move the two 8259 away from the exceptions, then mask all their lines.
pic_disable:
    mov al, 0x11
    out 0x20, al
    out 0xa0, al
    mov al, 0x30                        # vectors 0x30 and 0x38, never delivered
    out 0x21, al
    mov al, 0x38
    out 0xa1, al
    mov al, 4
    out 0x21, al
    mov al, 2
    out 0xa1, al
    mov al, 1
    out 0x21, al
    out 0xa1, al
    mov al, 0xff
    out 0x21, al
    out 0xa1, al
    ret
