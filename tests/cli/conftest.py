"""The command line as a process of its own, the way people and scripts run it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import COMMAND, clean_environment

from framewright.local import System

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def framewright(tmp_path: Path) -> Callable[..., Done]:
    """`framewright("jobs", "ls", FRAMEWRIGHT_URL=...)`: run one command in an empty directory, wait for its end."""

    def run(*arguments: str | Path, cwd: Path = tmp_path, **env: str) -> Done:
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            cwd=cwd,
            env=clean_environment(tmp_path) | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=170,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def service(data_home: Path) -> Iterator[System]:
    """A whole service with the scripted engine, for the commands that need one."""
    with System(data_home / "cli", durable=False, env={"test_engines": True, "idle_claim_s": 1}) as running:
        yield running


@pytest.fixture
def at_service(service: System) -> dict[str, str]:
    """The environment that leads a command to `service`."""
    return {"FRAMEWRIGHT_URL": service.url, "FRAMEWRIGHT_API_KEY": service.api_key}
