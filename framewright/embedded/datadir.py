"""One data directory: who may use it, its lock, its secrets, its ports, its logs, and what it left running."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import platformdirs
import psutil

from framewright.embedded.account import Account
from framewright.embedded.wards import Ward, end
from framewright.errors import EmbeddedServerError

LAYOUT = 1
_MARKER = "framewright.json"
# What a directory may hold whose first start has only begun.
_FIRST = {"lock", "logs", f".{_MARKER}.new"}
# A guard that still ends the servers of a killed owner holds the lock for at most its graces.
_GUARD_S = 60.0


def default_data_dir() -> Path:
    """The platform's user data directory; for root on systems without /proc, one that `nobody` can reach."""
    home = Path(platformdirs.user_data_dir("framewright", appauthor=False))
    if os.geteuid() == 0 and not Path("/proc/self/fd").exists():
        return Path(platformdirs.site_data_dir("framewright", appauthor=False))
    return home


class DataDir:
    """Held by one process at a time. Everything secret in it is 0600."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.account = Account.for_servers()
        self._mutex = threading.Lock()
        self._wards: dict[int, tuple[str, Ward]] = {}
        self._lock: int | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def open(self) -> None:
        """Make or check the directory, lock it, end what a killed owner left, and start the guard."""
        self._enter()
        self._lock = self._take_lock()
        try:
            self._settle()
            end(Ward(**left["ward"]) for left in self._state().get("running", {}).values())
            self._remember_running()
            self._guard = self._start_guard(self._lock)
        except BaseException:
            self.close()
            raise

    def end_all(self) -> None:
        """End everything that runs on this directory, highest stage first."""
        with self._mutex:
            left = [ward for _, ward in self._wards.values()]
        end(left)

    def close(self) -> None:
        """End what still runs, let the guard go, unlock. Safe to call twice."""
        self.end_all()
        if self._guard is not None:
            guard, self._guard = self._guard, None
            # Closes its stdin, which is its sign to go.
            with contextlib.suppress(BrokenPipeError):
                guard.communicate()
        if self._lock is not None:
            self._wards.clear()
            self._remember_running()
            os.close(self._lock)
            self._lock = None

    @property
    def guard_pid(self) -> int | None:
        """The process that ends ours should we die; None when the directory is not open."""
        return self._guard.pid if self._guard else None

    def folder(self, name: str) -> Path:
        """A directory in here that belongs to the servers' account; made when missing."""
        folder = self.path / name
        if not folder.exists():
            folder.mkdir(mode=0o700)
            self.account.give(folder)
        if not self.account.owns(folder):
            raise EmbeddedServerError(
                f"{folder} belongs to uid {folder.stat().st_uid}, and its server would run as uid {self.account.uid}; "
                "start as the user that made it or choose another data directory"
            )
        return folder

    def log(self, name: str) -> Path:
        """Where the output of process `name` goes."""
        return self.path / "logs" / f"{name}.log"

    def secret(self, name: str, make: Callable[[], str] = secrets.token_urlsafe) -> str:
        """The secret `name`, made once per data directory: by `make`, or of 32 random bytes."""
        with self._mutex:
            path = self.path / "secrets.json"
            known: dict[str, str] = _read(path)
            if name not in known:
                known[name] = make()
                _write(path, known)
            return known[name]

    def port(self, name: str) -> int | None:
        """The port that `name` had last, so that addresses survive a restart where they can."""
        known = self._state().get("ports", {}).get(name)
        return int(known) if known else None

    def keep_port(self, name: str, port: int) -> None:
        """Remember the port of `name` for the next start."""
        with self._mutex:
            state = self._state()
            self._remember(ports={**state.get("ports", {}), name: port})

    def writer(self, name: str) -> str | None:
        """Which program wrote the data of `name` ("valkey 9"); None before the first start."""
        known = self._state().get("writers", {}).get(name)
        return str(known) if known else None

    def keep_writer(self, name: str, program: str | None) -> None:
        """Remember who wrote the data of `name`; None when it was removed."""
        with self._mutex:
            state = self._state()
            self._remember(writers={**state.get("writers", {}), name: program})

    def add(self, name: str, ward: Ward) -> None:
        """Take charge of a process: it ends with us, whatever happens to us."""
        with self._mutex:
            self._wards[ward.pid] = (name, ward)
            self._tell_guard({"add": asdict(ward)})
            self._remember_running()

    def drop(self, pid: int) -> None:
        """That process ended."""
        with self._mutex:
            if self._wards.pop(pid, None) is None:
                return
            self._tell_guard({"drop": pid})
            self._remember_running()

    def _enter(self) -> None:
        """Make the directory, or see that it is ours, before anything is written into it."""
        path = self.path
        try:
            # Others may pass through (the servers' account is one of them) but not list.
            path.mkdir(parents=True, exist_ok=True, mode=0o711)
            foreign = [entry.name for entry in path.iterdir() if entry.name not in _FIRST]
            if foreign and not (path / _MARKER).exists():
                raise EmbeddedServerError(f"{path} is not empty and not a Framewright data directory; choose another")
            owner = path.stat().st_uid
        except OSError as error:
            raise EmbeddedServerError(f"cannot use {path} as data directory: {error.strerror or error}") from error
        if owner != os.geteuid():
            raise EmbeddedServerError(
                f"{path} belongs to uid {owner} and we run as uid {os.geteuid()}; "
                "start as its owner or choose another data directory"
            )

    def _settle(self) -> None:
        """Under the lock: mark a new directory, check the layout of a known one."""
        marker = self.path / _MARKER
        try:
            if not marker.exists():
                self.path.chmod(0o711)
                _write(marker, {"layout": LAYOUT})
            (self.path / "logs").mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise EmbeddedServerError(f"cannot write to {self.path}: {error.strerror or error}") from error
        layout = _read(marker).get("layout")
        if layout != LAYOUT:
            raise EmbeddedServerError(
                f"{self.path} has layout {layout!r} and this version reads {LAYOUT}; choose another data directory"
            )

    def _take_lock(self) -> int:
        try:
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise EmbeddedServerError(f"cannot write to {self.path}: {error.strerror or error}") from error
        deadline = time.monotonic() + _GUARD_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(lock, 32, 0).decode().strip()
                if holder.isdigit() and not _lives(int(holder)) and time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                os.close(lock)
                raise EmbeddedServerError(
                    f"{self.path} is in use by process {holder or '?'}; stop that one or choose another data directory"
                ) from None
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
            return lock

    def _start_guard(self, lock: int) -> subprocess.Popen[bytes]:
        with appended(self.log("guard")) as log:
            return subprocess.Popen(
                [sys.executable, "-m", "framewright.embedded.guard", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=python_environment(),
                cwd="/",
                start_new_session=True,
                pass_fds=[lock],
            )

    def _tell_guard(self, message: dict[str, Any]) -> None:
        if self._guard is None or self._guard.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.write(json.dumps(message).encode() + b"\n")
            self._guard.stdin.flush()

    def _remember_running(self) -> None:
        # The guard knows as well: a full disk must not keep us from ending a process.
        with contextlib.suppress(OSError):
            running = {pid: {"name": name, "ward": asdict(ward)} for pid, (name, ward) in self._wards.items()}
            self._remember(running=running)

    def _state(self) -> dict[str, Any]:
        return _read(self.path / "state.json")

    def _remember(self, **changes: Any) -> None:
        _write(self.path / "state.json", {**self._state(), **changes})


def appended(log: Path) -> BinaryIO:
    """A log, open at its end; one that is made here is its owner's alone to read."""
    return open(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")  # noqa: PTH123 - made 0600


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def python_environment() -> dict[str, str]:
    """The environment of our own Python children: nothing of ours leaks, and they import the same framewright."""
    here = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (here, os.environ.get("PYTHONPATH", "")) if part)
    return {**plain_environment(), "PYTHONPATH": path}


def plain_environment() -> dict[str, str]:
    """The environment of a server: no credentials, no locale surprises."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _read(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise EmbeddedServerError(f"{path} cannot be read: {error}; choose another data directory") from error
    return known if isinstance(known, dict) else {}


def _write(path: Path, value: dict[str, Any]) -> None:
    """Replace `path` in one move, so a crash leaves the old text or the new, and never a half."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123 - made 0600
        json.dump(value, file)
    fresh.replace(path)
