"""The sources of a trace's guest, where they are known: of images that come with kstack, and are what ran."""

from __future__ import annotations

from kstack.kernels.guests import Listing
from kstack.kernels.known import usual_guests
from kstack.trace.export.read import Code
from kstack.trace.store import Trace


def image_of(trace: Trace) -> Listing | None:
    """The built-in image of a trace; None if it is another's, or its code is not what ran."""
    listing = usual_guests().listing(trace.meta.image)
    return listing if listing is not None and _is_what_ran(listing, Code(trace)) else None


def _is_what_ran(listing: Listing, code: Code) -> bool:
    sections = [(one.start, one.data) for one in listing.sections if one.is_code]
    for rip in code:
        for start, data in sections:
            if start <= rip < start + len(data):
                now = code.versions(rip)[0].code
                if data[rip - start : rip - start + len(now)] != now:
                    return False
    return True
