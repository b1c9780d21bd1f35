"""TOML files decoded strictly: an unknown key is an error that names file, key and the nearest valid one."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import TypeVar, get_args

import msgspec

from kstack.base.errors import ConfigError

T = TypeVar("T", bound=msgspec.Struct)


def read_toml(path: Path, kind: type[T]) -> T:
    """The contents of a TOML file as a struct of `kind`.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or says something it may not.
    """
    try:
        return parse_toml(path.read_text(encoding="utf-8"), kind, str(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_toml(text: str, kind: type[T], name: str) -> T:
    """TOML as a struct of `kind`; errors call it `name`.

    Raises:
        ConfigError: it is no TOML, or says something it may not.
    """
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of nesting or numbers without end, too
        raise ConfigError(f"{name}: {error}") from error
    _check_keys(table, kind, name, "")
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        where = str(error).partition(" - at ")
        raise ConfigError(f"{name}: {where[2].strip('`$.') or 'the file'}: {where[0]}") from error


def _check_keys(table: dict[str, object], kind: type[msgspec.Struct], name: str, prefix: str) -> None:
    """Refuse keys that `kind` does not have, in tables of tables too."""
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    for key, value in table.items():
        if key == kind.__struct_config__.tag_field:
            continue
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1, 0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"keys: {', '.join(fields)}"
            raise ConfigError(f"{name}: key {prefix + key!r} does not exist; {hint}")
        tables = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, dict)]
        for inner in get_args(fields[key]) or (fields[key],):
            if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
                tagged = inner.__struct_config__
                for one in tables:
                    if tagged.tag_field is None or one.get(tagged.tag_field) == tagged.tag:
                        _check_keys(one, inner, name, f"{prefix}{key}.")
