"""A hub and a models directory for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import model_hub
import pytest
import tiny_model

from framewright.models.home import Home
from framewright.models.manifest import Consent, Manifest
from framewright.models.pull import pull
from framewright.models.together import Progress

Pull = Callable[..., Manifest]


@pytest.fixture
def hub() -> Iterator[model_hub.Hub]:
    """A hub with one commit of the tiny repository."""
    with model_hub.serving() as serving:
        serving.commit(tiny_model.REPO, tiny_model.repository())
        yield serving


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "models")


@pytest.fixture
def pauses() -> list[float]:
    """The pauses that a pull of `pulling` would have made (s)."""
    return []


@pytest.fixture
def pulling(hub: model_hub.Hub, home: Home, pauses: list[float]) -> Pull:
    """`pulling(row, ...)`: pull from the hub without waiting between tries."""

    def run(row: Any = None, **options: Any) -> Manifest:
        chosen = {"hub_url": hub.url, "agree": refuse, "report": ignore, "wait": pauses.append, "home": home} | options
        return pull(row or tiny_model.row(), **chosen)

    return run


def refuse(_: Any) -> Consent | None:
    return None


def ignore(_: Progress) -> None:
    pass
