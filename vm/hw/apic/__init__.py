"""The local APIC (SDM volume 3A, chapter 10)."""
