"""The desk of worker tests, and a worker with short times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from desk import Desk, supervised

from framewright.settings import Settings
from workers.supervisor import Supervisor


@pytest.fixture(scope="module")
def quick(make_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Times so short that a test can wait for what they bound."""
    scratch: Path = tmp_path_factory.mktemp("scratch")
    return make_settings(
        lease_s=4,
        renew_s=0.2,
        idle_claim_s=0.3,
        cancel_grace_s=1.5,
        drain_grace_s=5,
        worker_ttl_s=3,
        scratch_dir=scratch,
    )


@pytest.fixture(scope="module")
def desk(quick: Settings) -> Iterator[Desk]:
    made = Desk(quick)
    yield made
    made.close()


@pytest.fixture(scope="module")
def worker(quick: Settings, desk: Desk) -> Iterator[Supervisor]:
    """A running supervisor with a warm runner, shared by the tests of a module."""
    with supervised(quick) as supervisor:
        yield supervisor


@pytest.fixture
def own_worker(quick: Settings, desk: Desk) -> Iterator[Supervisor]:
    """A running supervisor that a test may pause or send away."""
    with supervised(quick) as supervisor:
        yield supervisor
