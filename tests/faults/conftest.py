"""Systems that tests may break: one a module where the damage heals, one a test where it does not."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from house import House

from framewright.local import System

BRISK = {"lease_s": 3, "renew_s": 0.5, "idle_claim_s": 2, "doorbell_s": 2, "reconcile_s": 0.25, "cancel_grace_s": 3}
"""Timers short enough to wait for; a test that promises something about the defaults gives its own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.fault)


def _makes(data_home: Path) -> Iterator[Callable[..., House]]:
    with ExitStack() as ends:

        def make(*, api: int = 1, workers: int = 1, reconcilers: int = 1, **env: Any) -> House:
            data = data_home / f"house-{uuid.uuid4().hex[:8]}"
            ends.callback(shutil.rmtree, data, ignore_errors=True)
            settings = {"test_engines": True, **BRISK, **env}
            system = System(data, api=api, workers=workers, reconcilers=reconcilers, env=settings, durable=False)
            house = House(ends.enter_context(system))
            ends.callback(house.http.close)
            return house

        yield make


@pytest.fixture
def build(data_home: Path) -> Iterator[Callable[..., House]]:
    """Makes a `House` of this test's own: `build(workers=2, lease_s=30)`; brisk timers unless told otherwise."""
    yield from _makes(data_home)


@pytest.fixture(scope="module")
def house(data_home: Path) -> Iterator[House]:
    """One of everything, for all tests of a module that leave it as they found it."""
    for make in _makes(data_home):
        yield make()
