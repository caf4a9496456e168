"""The tiny models are what the tests take them for: whole repositories, the same every time, safe to load."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import tiny
from shelves import Shelf


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_two_builds_are_equal_to_the_byte(shelf: Shelf, name: str, tmp_path: Path) -> None:
    first = _files(shelf.repository(name))
    assert first == _files(tiny.build(name, tmp_path / "again"))
    assert (
        json.loads((tmp_path / "again" / "model_index.json").read_text())["_class_name"] == tiny.FAMILIES[name].pipeline
    )
    assert {Path(path).suffix for path in first} <= {".json", ".safetensors", ".jinja", ".txt", ".model"}


def _files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
