"""An HTML file that loads nothing from anywhere, written whole or not at all.

Text that comes from policies and guests goes through jinja2's escaping, and the page's content
security policy lets no script run but the page's own.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from kstack.base.digests import digest
from kstack.base.errors import ConfigError
from kstack.base.files import write_whole

HERE: Final = Path(__file__).parent
"""The style and the script that all pages have."""
_NONCE: Final = "NONCE-OF-THIS-PAGE"


def check_can_write(path: Path, needs: Iterable[str] = ("jinja2",)) -> None:
    """Find out whether a page can be made and written.

    Args:
        path: of the file.
        needs: libraries.

    Raises:
        ConfigError: a library is missing, or the file cannot be written.
    """
    missing = [name for name in needs if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"--report needs {' and '.join(missing)}: pip install 'kstack[report]'")
    if path.is_dir():
        raise ConfigError(f"--report {path}: is a folder; give a file")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--report {path}: there is no folder {path.parent}")
    if not os.access(path.absolute().parent, os.W_OK):
        raise ConfigError(f"--report {path}: the folder cannot be written")


def rendered(template: Path, content: Mapping[str, object], filters: Mapping[str, Callable[..., object]]) -> str:
    """A page as text; the same content gives the same text.

    Args:
        template: of jinja2.
        content: what it shows.
        filters: what it calls, by name.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    page = environment.get_template(template.name).render(
        **content,
        style=Markup((HERE / "style.css").read_text()),
        script=Markup((HERE / "page.js").read_text()),
        nonce=_NONCE,
    )
    nonce = digest(page)  # nothing inside the page can know it
    return page.replace(_NONCE, nonce)


def write_page(path: Path, text: str) -> None:
    """Write a page.

    Raises:
        ConfigError: it cannot be written.
    """
    write_whole(path, text, f"--report {path} cannot be written")
