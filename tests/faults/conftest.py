"""Systems that tests may break: one a module where the damage heals, one a test where it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from house import House, houses


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.fault)


@pytest.fixture
def build(data_home: Path) -> Iterator[Callable[..., House]]:
    """Makes a `House` of this test's own: `build(workers=2, lease_s=30)`; brisk timers unless told otherwise."""
    with houses(data_home) as make:
        yield make


@pytest.fixture(scope="module")
def house(data_home: Path) -> Iterator[House]:
    """One of everything, for all tests of a module that leave it as they found it."""
    with houses(data_home) as make:
        yield make()
