"""The tiny models are what the tests take them for: whole repositories, the same every time, safe to load.

Their folders are as diffusers writes them: they pass the checks of weights, and headers tell what ends up in memory.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import tiny
from shelves import Shelf
from torch import nn

from framewright.models.contents import check
from framewright.models.estimate import components


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_two_builds_are_equal_to_the_byte(shelf: Shelf, name: str, tmp_path: Path) -> None:
    first = _files(shelf.repository(name))
    assert first == _files(tiny.build(name, tmp_path / "again"))
    assert (
        json.loads((tmp_path / "again" / "model_index.json").read_text())["_class_name"] == tiny.FAMILIES[name].pipeline
    )
    assert {Path(path).suffix for path in first} <= {".json", ".safetensors", ".jinja", ".txt", ".model"}


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_every_family_is_taken_and_weighed(shelf: Shelf, name: str) -> None:
    folder = shelf.repository(name)
    check(folder)
    modules = {part: one for part, one in shelf.load(name).components.items() if isinstance(one, nn.Module)}
    assert {part.name: part.size for part in components(folder)} == {part: _held(one) for part, one in modules.items()}


def _held(module: nn.Module) -> int:
    """Bytes of a component's weights; one that two layers share counts once."""
    return sum({each.data_ptr(): each.nbytes for each in module.state_dict().values()}.values())


def _files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
