"""JSON documents as types: what files have and commands print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

JsonValue = Mapping[str, "JsonValue"] | Sequence["JsonValue"] | str | int | float | bool | None
Document = dict[str, JsonValue]
"""A JSON object."""
