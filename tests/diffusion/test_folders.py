"""The folders that diffusers writes pass the checks of weights, and their headers tell what ends up in memory."""

from __future__ import annotations

import pytest
import tiny
from shelves import Shelf
from torch import nn

from framewright.models.contents import check
from framewright.models.estimate import components


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_every_family_is_taken_and_weighed(shelf: Shelf, name: str) -> None:
    folder = shelf.repository(name)
    check(folder)
    modules = {part: one for part, one in shelf.load(name).components.items() if isinstance(one, nn.Module)}
    assert {part.name: part.size for part in components(folder)} == {part: held(one) for part, one in modules.items()}


def held(module: nn.Module) -> int:
    """Bytes of a component's weights; one that two layers share counts once."""
    return sum({each.data_ptr(): each.nbytes for each in module.state_dict().values()}.values())
