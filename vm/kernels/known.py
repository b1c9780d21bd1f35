"""The kernel that a guest has where nobody says otherwise. Who needs it asks here; nobody else names one."""

from __future__ import annotations

from kstack.kernels.guests import Guests


def usual_guests() -> Guests:
    """Those of kstack's own kernel, which is not loaded before somebody asks."""
    from kstack.kernels.kstack.guests import KstackGuests

    return KstackGuests()
