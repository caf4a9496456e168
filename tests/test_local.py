"""`System`: the whole service as child processes, brought up, kept up and taken down."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import redis
from waiting import until

from framewright.local import System


@pytest.fixture(scope="module")
def system(data_home: Path) -> Iterator[System]:
    """Two API processes, a reconciler and a worker."""
    with System(data_home / "system", api=2, durable=False, env={"test_engines": True}) as running:
        yield running


def ask(system: System, path: str, key: str | None = None, url: str | None = None) -> httpx.Response:
    return httpx.get(f"{url or system.url}{path}", headers={"Authorization": f"Bearer {key or system.api_key}"})


def ready(system: System, url: str) -> bool:
    try:
        return ask(system, "/readyz", url=url).status_code == 200
    except httpx.TransportError:
        return False


def test_everything_is_up_each_in_its_own_session(system):
    assert set(system.pids) == {"postgres", "valkey", "s3", "api", "api-2", "reconciler", "worker"}
    assert all(os.getsid(pid) == pid for pid in system.pids.values())
    assert len(set(system.urls)) == 2
    for url in system.urls:
        assert ask(system, "/readyz", url=url).json()["status"] == "ready"


def test_the_admin_key_opens_every_api_and_another_does_not(system):
    for url in system.urls:
        assert ask(system, "/api/v1/jobs", url=url).status_code == 200
        assert ask(system, "/api/v1/jobs", "fw_live_nonsense", url=url).status_code == 401


def test_workers_do_not_get_the_admin_key_and_servers_get_no_setting(system):
    assert system.api_key == psutil.Process(system.pids["api"]).environ()["FRAMEWRIGHT_BOOTSTRAP_KEY"]
    for name in ("worker", "reconciler"):
        worker = psutil.Process(system.pids[name]).environ()
        assert "FRAMEWRIGHT_DATABASE_URL" in worker
        assert system.api_key not in worker.values()
    for name in ("postgres", "valkey", "s3"):
        given = psutil.Process(system.pids[name]).environ()
        assert not [variable for variable in given if variable.startswith("FRAMEWRIGHT_")]


def test_the_secrets_of_the_service_are_private(system):
    secrets = system.data_dir / "secrets.json"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    assert json.loads(secrets.read_text())["bootstrap_key"] == system.api_key


def test_a_spawned_worker_is_known_with_its_own_settings_when_it_returns(system):
    worker = system.spawn_worker(queues="gpu", lease_s=7)
    rows = {row["id"]: row for row in ask(system, "/api/v1/workers").json()["data"]}
    assert rows[worker.environment["FRAMEWRIGHT_WORKER_NAME"]]["queues"] == ["gpu"]
    assert psutil.Process(worker.pid).environ()["FRAMEWRIGHT_LEASE_S"] == "7"
    assert system.pids[worker.name] == worker.pid
    worker.stop()
    assert worker.name not in system.pids


@pytest.mark.fault
@pytest.mark.parametrize("name", ["worker", "api-2", "reconciler", "valkey", "postgres"])
def test_what_is_killed_from_outside_comes_back(system, name):
    killed = system.pids[name]
    os.kill(killed, signal.SIGKILL)
    until(lambda: system.pids.get(name, killed) != killed)
    until(lambda: all(ready(system, url) for url in system.urls))


@pytest.mark.fault
def test_what_a_test_kills_stays_down_until_it_is_started(system):
    valkey = system.servers.valkey
    valkey.kill()
    worker = system.pids["worker"]
    os.kill(worker, signal.SIGKILL)
    # The keeper looks at the servers before it brings the worker back.
    until(lambda: system.pids.get("worker", worker) != worker)
    assert not valkey.running
    valkey.restart(empty=True)
    assert redis.Redis.from_url(system.servers.redis_url).ping()
