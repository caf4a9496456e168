"""One child process in its own session: start, watch, stop, kill, pause; the guard knows of it from the start."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from framewright.embedded.datadir import DataDir, appended
from framewright.embedded.wards import Ward, end, family, kill, tell, wait_gone

_TAIL_BYTES = 16_384
_LOG_BYTES = 10_000_000


@dataclass(frozen=True, slots=True)
class Command:
    """What to run and how it wants to be stopped (`grace_s` s after `stop_signal` comes SIGKILL)."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    cwd: Path
    stdin: bytes = b""
    pass_fds: Sequence[int] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)
    stop_signal: int = signal.SIGTERM
    grace_s: float = 10.0
    stage: int = 0


class Child:
    """A process that we started. Its output is appended to the log `name` of the data directory."""

    def __init__(self, data: DataDir, name: str, command: Command) -> None:
        """Start it; raises `OSError` when the program cannot be run."""
        self.name = name
        self.log = data.log(name)
        self._data = data
        self._log_start = _roll(self.log)
        with appended(self.log) as log:
            self._popen = subprocess.Popen(
                list(command.argv),
                stdin=subprocess.PIPE if command.stdin else subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(command.environment),
                cwd=command.cwd,
                start_new_session=True,
                pass_fds=tuple(command.pass_fds),
                **command.identity,
            )
        self.pid = self._popen.pid
        self._ward: Ward | None = None
        with contextlib.suppress(psutil.NoSuchProcess):
            self._ward = Ward.of(
                self.pid, stop_signal=command.stop_signal, grace_s=command.grace_s, stage=command.stage
            )
            data.add(name, self._ward)
        if self._popen.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._popen.stdin.write(command.stdin)
                self._popen.stdin.close()

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative is the signal that ended it."""
        return self._popen.poll()

    @property
    def state(self) -> str:
        """What the system says of it: `running`, `sleeping`, `stopped`, `disk-sleep`, or `gone`."""
        try:
            return str(psutil.Process(self.pid).status())
        except psutil.NoSuchProcess:
            return "gone"

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end; raises `subprocess.TimeoutExpired`."""
        return self._popen.wait(timeout_s)

    def tail(self, lines: int = 15) -> str:
        """The last lines that this process wrote."""
        with self.log.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """Ask it to end, wait its grace, then kill it and whatever it started."""
        if self._popen.poll() is None and self._ward is not None:
            end([self._ward])
        self._gone()

    def kill(self) -> None:
        """SIGKILL it and every descendant, as a power cut would; returns when all are dead."""
        relatives: list[psutil.Process] = []
        if self._popen.poll() is None:
            relatives = family(self.pid)
            tell(self.pid, signal.SIGKILL)
        kill(relatives)
        psutil.wait_procs(relatives, timeout=5)
        self._gone()

    def pause(self) -> None:
        """SIGSTOP it and every descendant, as a frozen machine would; returns when it stands still."""
        self._tell_all(signal.SIGSTOP)
        deadline = time.monotonic() + 5
        while self.exit_code is None and time.monotonic() < deadline:
            if psutil.Process(self.pid).status() == psutil.STATUS_STOPPED:
                return
            time.sleep(0.002)

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        self._tell_all(signal.SIGCONT)

    def _tell_all(self, number: int) -> None:
        if self._popen.poll() is None:
            # The parent first, so it cannot see its children stand still.
            tell(self.pid, number)
            for relative in family(self.pid):
                tell(relative.pid, number)

    def _gone(self) -> None:
        self._popen.wait()
        if self._ward is not None:
            wait_gone([self._ward], time.monotonic() + 5)
        self._data.drop(self.pid)


def _roll(log: Path) -> int:
    """Where the output of a new process starts in its log; a long log is put aside first, one generation deep."""
    if not log.exists():
        return 0
    size = log.stat().st_size
    if size < _LOG_BYTES:
        return size
    log.replace(log.with_suffix(".log.1"))
    return 0
