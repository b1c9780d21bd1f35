"""The assembled guests are byte for byte what GNU as and ld make of the same sources."""

from __future__ import annotations

import pytest

from kstack.guest.asm import KERNEL_LAYOUT, gnu
from kstack.guest.images import KERNEL, build_image, images, sources


@pytest.mark.system("as", "ld")
@pytest.mark.parametrize("name", sorted(images()))
def test_an_image_is_byte_identical_to_what_gnu_as_and_ld_make(name: str) -> None:
    texts = [path.read_text() for path in sources(name)]
    theirs = gnu.link(texts, KERNEL_LAYOUT, include=[KERNEL])
    image = build_image(name)
    assert len(theirs) > 8_000
    assert gnu.differences(image.to_flat(), 0x100000, theirs) == []
