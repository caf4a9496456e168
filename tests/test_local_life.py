"""`System` from start to stop: what comes back at the next start, and that nothing is left running."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import httpx
import psutil
import pytest
from waiting import until

from framewright import local
from framewright.embedded import ports
from framewright.embedded.datadir import DataDir, python_environment
from framewright.errors import EmbeddedServerError, SettingsError
from framewright.local import System

UP = """
import json, sys
from pathlib import Path
from framewright.local import System
with System(Path(sys.argv[1]), durable=False) as system:
    print(json.dumps({"pids": system.pids, "guard": system.servers.data.guard_pid}), flush=True)
    sys.stdin.read()
"""


def ask(system: System, path: str, key: str | None = None, url: str | None = None) -> httpx.Response:
    return httpx.get(f"{url or system.url}{path}", headers={"Authorization": f"Bearer {key or system.api_key}"})


def living(pids: dict[str, int]) -> list[str]:
    alive = []
    for name, pid in pids.items():
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                alive.append(name)
        except psutil.NoSuchProcess:
            pass
    return alive


def test_a_second_start_has_the_same_key_address_and_jobs_and_leaves_nothing(home):
    before = set(psutil.Process().children(recursive=True))
    with System(home, durable=False) as first:
        known = (first.url, first.api_key)
        made = httpx.post(
            f"{first.url}/api/v1/api-keys",
            headers={"Authorization": f"Bearer {first.api_key}", "Idempotency-Key": "k"},
            json={"name": "mine"},
        )
        assert made.status_code == 201, made.text
        started = set(psutil.Process().children(recursive=True)) - before
    assert len(started) >= 6
    assert not [process for process in started if process.is_running()]
    with System(home, workers=0, durable=False) as second:
        assert (second.url, second.api_key) == known
        assert ask(second, "/api/v1/jobs", made.json()["key"]).status_code == 200
        assert "worker" not in second.pids
    second.stop()
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.mark.fault
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_running_when_the_starter_is_ended(home, number):
    starter = subprocess.Popen(
        [sys.executable, "-c", UP, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=python_environment(),
    )
    assert starter.stdout is not None
    told = json.loads(starter.stdout.readline())
    everything = {**told["pids"], "guard": told["guard"]}
    assert set(living(everything)) == set(everything)
    relatives = [relative for pid in told["pids"].values() for relative in psutil.Process(pid).children(recursive=True)]
    starter.send_signal(number)
    starter.communicate()
    until(lambda: not living(everything))
    until(lambda: not [one for one in relatives if one.is_running() and one.status() != psutil.STATUS_ZOMBIE])
    with DataDir(home):
        pass


def test_a_wrong_setting_is_named_and_nothing_is_left_running(home):
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(SettingsError, match="FRAMEWRIGHT_LEASE_S"), System(home, durable=False, env={"lease_s": -1}):
        pass
    assert set(psutil.Process().children(recursive=True)) <= before


def test_a_process_that_does_not_come_up_shows_its_log_and_nothing_is_left_running(home, monkeypatch):
    before = set(psutil.Process().children(recursive=True))
    broken = [sys.executable, "-c", "raise SystemExit('the reason why')"]
    monkeypatch.setattr(local, "_api_command", lambda port: broken)
    with pytest.raises(EmbeddedServerError, match=r"api ended at start; its log ends:\nthe reason why"):
        System(home, durable=False).start()
    assert set(psutil.Process().children(recursive=True)) <= before


def test_a_taken_port_is_named_and_nothing_is_left_running(home, servers):
    before = set(psutil.Process().children(recursive=True))
    taken = servers.valkey.port
    with pytest.raises(EmbeddedServerError, match=rf"port {taken} for the API is taken.*valkey"):
        System(home, port=taken, durable=False).start()
    assert set(psutil.Process().children(recursive=True)) <= before


def test_configured_servers_are_used_and_not_started(home, servers, database_url, redis_prefix, s3):
    env = {
        "FRAMEWRIGHT_DATABASE_URL": database_url,
        "redis_url": servers.redis_url,
        "redis_prefix": redis_prefix,
        "s3_endpoint": s3.endpoint,
        "s3_bucket": s3.name,
        "s3_access_key": s3.access_key,
        "s3_secret_key": s3.secret_key,
    }
    port = ports.choose()
    with System(home, workers=0, port=port, env=env) as system:
        assert set(system.pids) == {"api", "reconciler"}
        assert system.url == f"http://127.0.0.1:{port}"
        assert system.servers.database_url == database_url
        until(lambda: ask(system, "/readyz").json()["components"]["storage"]["state"] == "ok")
