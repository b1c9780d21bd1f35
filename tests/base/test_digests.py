"""Digests are what they were in every file that users have."""

from __future__ import annotations

from pathlib import Path

from kstack.base.digests import digest, digest_of, digest_of_file


def test_digests_are_what_they_always_were(tmp_path: Path) -> None:
    assert digest("kstack") == digest(b"kstack") == "840f046eef29cccb054bac7455bc6b38"
    assert digest("\u00e9", 4) == digest("\u00e9".encode(), 4) == "954544c2"
    (tmp_path / "file").write_bytes(b"kstack")
    assert digest_of_file(tmp_path / "file") == digest("kstack")


def test_the_order_of_a_documents_keys_is_no_matter_and_all_else_is() -> None:
    assert digest_of({"b": 2, "a": {"d": 4, "c": 3}}) == digest_of({"a": {"c": 3, "d": 4}, "b": 2})
    assert digest_of({"a": [1, 2]}) != digest_of({"a": [2, 1]})
    assert digest_of({"a": 1}) != digest_of({"a": "1"})
