"""Whole systems to measure, and the figures that come out. `make bench` runs this; the suite leaves it out."""

from __future__ import annotations

import resource
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from figures import Figures

from framewright.local import System
from framewright.settings import Settings

SOCKETS = 8192
_FIGURES = pytest.StashKey[Figures]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FIGURES] = Figures()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.benchmark)
            item.add_marker(pytest.mark.timeout(900))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash[_FIGURES]
    if path := figures.write():
        terminalreporter.section("figures")
        for line in figures.table():
            terminalreporter.write_line(line)
        terminalreporter.write_line(f"written to {path}")


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> Figures:
    """Where measurements go."""
    return request.config.stash[_FIGURES]


@pytest.fixture(scope="module")
def build(data_home: Path, figures: Figures) -> Iterator[Callable[..., System]]:
    """`build(workers=2)`: a running `System` of default timers with durable servers, gone after the module."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SOCKETS if hard == resource.RLIM_INFINITY else min(hard, SOCKETS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    with ExitStack() as ends:

        def make(*, workers: int = 1, reconcilers: int = 1, **env: Any) -> System:
            data = data_home / f"bench-{uuid.uuid4().hex[:8]}"
            ends.callback(shutil.rmtree, data, ignore_errors=True)
            figures.say(f"starting a system with {workers} workers")
            wanted = {"test_engines": True, **env}
            system = ends.enter_context(System(data, workers=workers, reconcilers=reconcilers, env=wanted))
            _versions(system, figures)
            return system

        yield make


@pytest.fixture(scope="session")
def settings_of() -> Callable[[System], Settings]:
    """The settings that the processes of a system have."""

    def of(system: System) -> Settings:
        given = {name.removeprefix("FRAMEWRIGHT_").lower(): value for name, value in system.environment.items()}
        return Settings.model_validate(given)

    return of


def _versions(system: System, figures: Figures) -> None:
    with psycopg.connect(system.servers.database_url) as connection:
        figures.version("postgres", str(connection.info.parameter_status("server_version")))
    with redis.Redis.from_url(system.servers.redis_url) as client:
        told: Any = client.info("server")
        figures.version(
            "broker", f"{told.get('server_name', 'redis')} {told.get('valkey_version', told['redis_version'])}"
        )
