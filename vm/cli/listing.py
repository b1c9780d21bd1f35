"""kstack policies, scenarios, images: what there is."""

from __future__ import annotations

from rich.table import Table

from kstack.cli.options import Json
from kstack.cli.output import console, print_json


def _print(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    table = Table(header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console().print(table)


def policies(*, json: Json = False) -> int:
    """List the policies."""
    from kstack.stacks.loading.registry import policies as known

    found = known().values()
    if json:
        listed = [{"id": p.id, "title": p.title, "proposer": p.proposer, "source": p.source} for p in found]
        print_json({"version": 1, "policies": listed})
    else:
        _print(("policy", "mechanism", "proposer", "source"), [(p.id, p.title, p.proposer, p.source) for p in found])
    return 0


def scenarios(*, json: Json = False) -> int:
    """List the scenarios."""
    from kstack.kernels.known import usual_guests

    found = usual_guests().scenarios().values()
    if json:
        listed = [
            {"id": s.id, "title": s.title, "proposer": s.source, "source": s.source, "question": s.question.strip()}
            for s in found
        ]
        print_json({"version": 1, "scenarios": listed})
    else:
        _print(("scenario", "question", "source"), [(s.id, s.question.strip(), s.source) for s in found])
    return 0


def images(*, json: Json = False) -> int:
    """List the guest images."""
    from kstack.kernels.known import usual_guests

    found = usual_guests().titles().items()
    if json:
        print_json({"version": 1, "images": [{"name": name, "title": title} for name, title in found]})
    else:
        _print(("image", "what it is"), list(found))
    return 0
