"""Embedded servers whose starter died, was doubled, or left something behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import psycopg
import pytest
from starter import Starter
from waiting import until

from framewright import embedded
from framewright.embedded.datadir import DataDir
from framewright.errors import EmbeddedServerError

pytestmark = pytest.mark.fault


def living(pids: dict[str, int]) -> dict[str, int]:
    return {name: pid for name, pid in pids.items() if psutil.pid_exists(pid) and not _zombie(pid)}


def _zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_the_servers_end_with_their_starter_and_the_next_start_finds_the_data(home, number):
    starter = Starter(home)
    everything = {**starter.told["pids"], "guard": starter.told["guard"]}
    assert living(everything) == everything
    with psycopg.connect(starter.told["database_url"], autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
    starter.signal(number)
    until(lambda: not living(everything), 30)
    with embedded.start(home, durable=False) as again, psycopg.connect(again.database_url) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (42,)


def test_a_starter_that_ends_by_itself_ends_its_servers_first(home):
    starter = Starter(home)
    starter.end()
    assert not living({**starter.told["pids"], "guard": starter.told["guard"]})


def test_a_start_right_after_a_kill_waits_for_the_guard_of_the_dead(home):
    starter = Starter(home)
    starter.signal(signal.SIGKILL)
    with embedded.start(home, durable=False) as again:
        assert not living(starter.told["pids"])
        assert set(again.pids) == {"postgres", "valkey", "s3"}


def test_servers_that_even_the_guard_could_not_end_are_ended_by_the_next_start(home):
    starter = Starter(home)
    os.kill(starter.told["guard"], signal.SIGKILL)
    starter.signal(signal.SIGKILL)
    assert len(living(starter.told["pids"])) == 3
    with embedded.start(home, durable=False) as again, psycopg.connect(again.database_url) as connection:
        assert not living(starter.told["pids"])
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_postgres_that_nobody_remembers_is_ended_by_the_next_start(home):
    starter = Starter(home)
    os.kill(starter.told["guard"], signal.SIGKILL)
    starter.signal(signal.SIGKILL)
    (home / "state.json").unlink()
    try:
        with DataDir(home) as data:
            postgres = embedded.Postgres(data, durable=False)
            postgres.start()
            assert not living({"postgres": starter.told["pids"]["postgres"]})
    finally:
        for pid in living(starter.told["pids"]).values():
            os.kill(pid, signal.SIGKILL)


def test_two_starters_on_one_directory_the_second_is_told_who_the_first_is(home):
    first = Starter(home)
    with pytest.raises(EmbeddedServerError, match=f"in use by process {first.process.pid}"):
        embedded.start(home)
    assert len(living(first.told["pids"])) == 3
    first.end()


def test_twelve_starters_at_once_one_wins(home):
    starters: list[Starter] = []
    threads = [threading.Thread(target=lambda: starters.append(Starter(home))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [starter for starter in starters if "pids" in starter.told]
    lost = [starter.told["error"] for starter in starters if "error" in starter.told]
    for starter in starters:
        starter.end()
    assert len(won) == 1
    assert len(lost) == 11
    assert all("in use by process" in error for error in lost)


@pytest.fixture
def bystander() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a program that has nothing to do with us."""
    started: list[subprocess.Popen[bytes]] = []

    def start(**more: Any) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "600"], **more))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_pid_file_that_names_another_program_by_now_does_not_stop_postgres(home, bystander):
    with DataDir(home) as data:
        postgres = embedded.Postgres(data, durable=False)
        postgres.start()
        postgres.kill()
        stale = data.path / "postgres" / "postmaster.pid"
        first, *rest = stale.read_text().split("\n")
        assert first == str(postgres.pid)
        # As happens in containers, where pids start small again: it is alive, and of the same user.
        other = bystander(**data.account.identity)
        stale.write_text("\n".join([str(other.pid), *rest]))
        postgres.start()
        assert other.poll() is None
        with psycopg.connect(postgres.url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_remembered_pid_that_names_another_program_by_now_is_left_alone(home, bystander):
    with DataDir(home):
        pass
    other = bystander()
    created = psutil.Process(other.pid).create_time()
    ward = {"pid": other.pid, "created": created - 600, "signal": 15, "grace_s": 1, "stage": 0}
    (home / "state.json").write_text(json.dumps({"running": {other.pid: {"name": "valkey", "ward": ward}}}))
    with DataDir(home):
        assert other.poll() is None
    ward["created"] = created
    (home / "state.json").write_text(json.dumps({"running": {other.pid: {"name": "valkey", "ward": ward}}}))
    with DataDir(home):
        assert other.poll() == -signal.SIGTERM
