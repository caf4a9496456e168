"""Processes that must not outlive us: who they are, and how to end them in order."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import psutil

# psutil derives creation times from the boot time, which moves a little when the clock is set.
_SAME_START_S = 2.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Ward:
    """One process, named so that a later process with the same pid is not mistaken for it."""

    pid: int
    created: float
    signal: int
    grace_s: float
    stage: int

    @classmethod
    def of(cls, pid: int, *, stop_signal: int, grace_s: float, stage: int) -> Ward:
        """The living process `pid`; raises `psutil.NoSuchProcess` when it is gone."""
        return cls(pid, psutil.Process(pid).create_time(), int(stop_signal), grace_s, stage)

    def process(self) -> psutil.Process | None:
        """The process if it still lives; a zombie counts as dead."""
        with contextlib.suppress(psutil.Error):
            found = psutil.Process(self.pid)
            if abs(found.create_time() - self.created) < _SAME_START_S and found.status() != psutil.STATUS_ZOMBIE:
                return found
        return None


def family(pid: int) -> list[psutil.Process]:
    """Every descendant of `pid`, even those that left its session, as Postgres backends and runners do."""
    with contextlib.suppress(psutil.Error):
        return list(psutil.Process(pid).children(recursive=True))
    return []


def kill(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL them all; who is already gone is gone."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def tell(pid: int, number: int) -> None:
    """Signal one process; silent when it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def wait_gone(wards: Iterable[Ward], deadline: float) -> list[Ward]:
    """Wait until all are dead or `deadline` (of `time.monotonic`) passes; returns who still lives."""
    living = [ward for ward in wards if ward.process()]
    while living and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        living = [ward for ward in living if ward.process()]
    return living


def end(wards: Iterable[Ward]) -> None:
    """End them, highest stage first: ask, wait up to the longest grace of the stage, then kill with descendants."""
    ordered = sorted(wards, key=lambda ward: ward.stage, reverse=True)
    for _, group in groupby(ordered, key=lambda ward: ward.stage):
        stage = [ward for ward in group if ward.process()]
        relatives = [relative for ward in stage for relative in family(ward.pid)]
        for ward in stage:
            tell(ward.pid, ward.signal)
            # One that stands still (SIGSTOP), or whose children do, would only end by SIGKILL.
            tell(ward.pid, signal.SIGCONT)
        for relative in relatives:
            tell(relative.pid, signal.SIGCONT)
        grace_s = max((ward.grace_s for ward in stage), default=0.0)
        stubborn = wait_gone(stage, time.monotonic() + grace_s)
        kill(relative for relative in relatives if relative.is_running())
        kill(found for ward in stubborn if (found := ward.process()))
        wait_gone(stubborn, time.monotonic() + 5)
