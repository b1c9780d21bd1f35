"""The sources of a trace's guest, where they are known: of images that come with kstack, and are what ran."""

from __future__ import annotations

from kstack.guest.asm import Access, Image
from kstack.guest.images import build_image, images
from kstack.trace.export.read import Code
from kstack.trace.store import Trace


def image_of(trace: Trace) -> Image | None:
    """The built-in image of a trace; None if it is another's, or its code is not what ran."""
    if trace.meta.image not in images():
        return None
    image = build_image(trace.meta.image)
    return image if _is_what_ran(image, Code(trace)) else None


def _is_what_ran(image: Image, code: Code) -> bool:
    sections = [(one.vaddr, one.data) for one in image.sections if Access.X in one.access]
    for rip in code:
        for start, data in sections:
            if start <= rip < start + len(data):
                now = code.versions(rip)[0].code
                if data[rip - start : rip - start + len(now)] != now:
                    return False
    return True
