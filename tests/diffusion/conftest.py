"""Tiny models on disk, built once for the whole run, and what stock diffusers makes of each."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

import pytest

from framewright import catalogue

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shelves import Shelf
    from workshop import Workshop

# Nothing here can be read without the gpu extra, let alone run.
_HERE = all(importlib.util.find_spec(name) for name in ("torch", "diffusers", "transformers", "accelerate"))
collect_ignore_glob = [] if _HERE else ["test_*.py"]
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", DIFFUSERS_VERBOSITY="error")


def pytest_configure(config: pytest.Config) -> None:
    # Upstream's own, about numpy 2 and about autocast on a CPU.
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:diffusers")
    config.addinivalue_line("filterwarnings", "ignore:In CPU autocast:UserWarning")


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    from shelves import Shelf

    return Shelf(tmp_path_factory.mktemp("models"))


@pytest.fixture
def workshop(shelf: Shelf, tmp_path: Path) -> Iterator[Workshop]:
    """Rows of tiny models, known to the catalogue for one test."""
    from workshop import Workshop

    yield Workshop(tmp_path, shelf.repository)
    catalogue.install(None)
