"""kstack image: a built-in image as a file, for another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kstack.base.documents import Document
from kstack.base.errors import ImageError
from kstack.base.files import write_whole
from kstack.cli.options import Json
from kstack.cli.output import place_for, print_json
from kstack.kernels.known import usual_guests
from kstack.recording import image_hash


def image(
    name: str,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="File to write; one that is there is replaced.")],
    json: Json = False,
) -> int:
    """Write a built-in image, whole or not at all: an ELF file that PVH loaders boot, and probes multiboot loaders, too.

    Parameters
    ----------
    name:
        as `kstack images` lists it, or the TOML of a scenario of your own
    """
    guests = usual_guests()
    titles = guests.titles()
    if name not in titles and not guests.is_scenario(name) and Path(name).exists():
        raise ImageError(f"image {name} is a file already; see: kstack images")
    content = guests.image(name)
    title = titles[name] if name in titles else guests.scenario(name).title
    write_whole(place_for(output), content)
    if json:
        said: Document = {"image": name, "title": title, "file": str(output)}
        print_json({"version": 1, **said, "bytes": len(content), "hash": image_hash(content)})
    else:
        print(f"{output}: {len(content)} bytes, {name}: {title}")
    return 0
