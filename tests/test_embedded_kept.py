"""Processes that are kept alive: what dies by itself comes back, what was told to be down stays down."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from waiting import until

from framewright.embedded import kept, wards
from framewright.embedded.datadir import DataDir, python_environment
from framewright.embedded.kept import Keeper, Kept
from framewright.embedded.service import Service
from framewright.errors import EmbeddedServerError

WAIT = "import sys; print('ready', flush=True); sys.stdin.read(); __import__('signal').pause()"
STUBBORN = "import signal; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("child", child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def data(home: Path) -> Iterator[DataDir]:
    with DataDir(home) as opened:
        yield opened


@pytest.fixture
def service(data: DataDir) -> Callable[..., Service]:
    def make(name: str, script: str, **more: float) -> Service:
        argv = [sys.executable, "-c", script]
        return Service(data, name, argv, environment=python_environment(), stage=1, **more)

    return make


@pytest.fixture
def keep() -> Iterator[Callable[..., None]]:
    keepers: list[Keeper] = []

    def start(*services: Kept) -> None:
        keepers.append(Keeper(lambda: services))
        keepers[-1].start()

    yield start
    for keeper in keepers:
        keeper.close()


def test_a_process_that_dies_comes_back(service, keep):
    one = service("one", WAIT)
    one.start()
    first = one.pid
    keep(one)
    os.kill(first, signal.SIGKILL)
    until(lambda: one.running and one.pid != first)
    one.stop()
    assert not one.running


@pytest.mark.parametrize("verb", ["stop", "kill"])
def test_a_process_that_was_told_to_be_down_stays_down(service, keep, verb):
    one, other = service("one", WAIT), service("other", WAIT)
    one.start()
    other.start()
    first = other.pid
    keep(one, other)
    getattr(one, verb)()
    os.kill(first, signal.SIGKILL)
    # The keeper looks at `one` before it brings `other` back.
    until(lambda: other.running and other.pid != first)
    assert not one.running
    one.start()
    assert one.running


def test_a_process_that_keeps_dying_is_tried_less_often_and_its_log_is_shown(service, keep, caplog, monkeypatch):
    monkeypatch.setattr(kept, "_LOOK_S", 0.001)
    monkeypatch.setattr(kept, "_FIRST_PAUSE_S", 0.001)
    one = service("one", "raise SystemExit('the reason why')")
    with caplog.at_level(logging.WARNING, "framewright.embedded.kept"):
        one.start()
        keep(one)
        told = until(lambda: [record for record in caplog.records if record.levelno == logging.ERROR])
    assert "one died 3 times" in told[0].getMessage()
    assert "the reason why" in told[0].getMessage()
    assert "the reason why" not in caplog.records[0].getMessage()


def test_pauses_grow_to_their_longest_and_start_over_after_a_steady_time(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(kept.time, "monotonic", lambda: clock[0])

    class Falling(Kept):
        def __init__(self) -> None:
            super().__init__(None, "falling")  # type: ignore[arg-type]

        def tail(self) -> str:
            return "aaah"

        def _launch(self) -> None:
            raise AssertionError

    keeper, one, falls = Keeper(list), Falling(), kept._Falls()
    pauses = []
    for _ in range(9):
        keeper._fell(one, falls)
        pauses.append(falls.due - clock[0])
        falls.revived = clock[0] = falls.due
    assert pauses[:4] == [0.25, 0.5, 1.0, 2.0]
    assert max(pauses) == pauses[-1] == 15
    clock[0] += 31
    keeper._fell(one, falls)
    assert falls.due - clock[0] == 0.25


def test_a_stubborn_process_is_killed_after_its_grace(service):
    one = service("one", STUBBORN, grace_s=0.2)
    one.start()
    until(lambda: "ready" in one.tail())
    one.stop()
    assert not psutil.pid_exists(one.pid)


@pytest.mark.parametrize("verb", ["stop", "kill"])
def test_descendants_go_too_even_from_sessions_of_their_own(service, verb):
    one = service("one", FAMILY)
    one.start()
    child = psutil.Process(int(until(one.tail).split()[1]))
    getattr(one, verb)()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_paused_family_stands_still_and_goes_on(service):
    one = service("one", FAMILY)
    one.start()
    child = psutil.Process(int(until(one.tail).split()[1]))
    one.pause()
    until(lambda: child.status() == psutil.STATUS_STOPPED)
    assert psutil.Process(one.pid).status() == psutil.STATUS_STOPPED
    one.resume()
    until(lambda: child.status() != psutil.STATUS_STOPPED)
    one.pause()
    one.stop()
    assert not psutil.pid_exists(one.pid)


def test_higher_stages_end_before_lower_ones_begin_to(data, home):
    script = """
import signal, sys, time
def end(*_):
    print(sys.argv[1], "ends", flush=True)
    time.sleep(0.3)
    print(sys.argv[1], "ended", flush=True)
    sys.exit()
signal.signal(15, end)
print(sys.argv[1], "ready", flush=True)
while True: signal.pause()
"""
    services = [
        Service(data, "all", [sys.executable, "-c", script, str(stage)], environment=python_environment(), stage=stage)
        for stage in (1, 3, 2)
    ]
    for one in services:
        one.start()
    until(lambda: data.log("all").read_text().count("ready") == 3)
    data.end_all()
    assert data.log("all").read_text().splitlines()[3:] == [
        "3 ends", "3 ended", "2 ends", "2 ended", "1 ends", "1 ended",
    ]  # fmt: skip
    for one in services:
        one.stop()


def test_a_program_that_is_not_there_is_an_error(data):
    one = Service(data, "one", ["/nowhere/at/all"], environment={}, stage=1)
    with pytest.raises(EmbeddedServerError, match="one cannot be started: No such file"):
        one.start()
    with pytest.raises(EmbeddedServerError, match="never started"):
        _ = one.pid


def test_a_long_log_is_put_aside(data, service, monkeypatch):
    data.log("one").write_text("old\n" * 10)
    monkeypatch.setattr("framewright.embedded.child._LOG_BYTES", 10)
    one = service("one", "print('new')")
    one.start()
    until(lambda: not one.running)
    assert data.log("one").read_text() == "new\n"
    assert data.log("one").with_suffix(".log.1").read_text() == "old\n" * 10


def test_a_ward_is_not_a_later_process_of_the_same_pid():
    me = psutil.Process()
    assert wards.Ward(me.pid, me.create_time(), 15, 1, 0).process() == me
    assert wards.Ward(me.pid, me.create_time() - 60, 15, 1, 0).process() is None
