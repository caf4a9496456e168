"""Scratch space: one locked directory a worker, a private one for each attempt in it, and none left by the dead."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PREFIX: Final = "framewright-scratch-"
_LOCK: Final = "lock"
_UNLOCKED_S: Final = 3600.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one attempt lies: `inputs` downloaded for it, `work` for the engine, `kept` for checkpoints on the way."""

    inputs: Path
    work: Path
    kept: Path


class Scratch:
    """The scratch directory of this process, 0700, under `root`. Raises `OSError` when there can be none.

    A lock that the kernel drops with the process tells the living from the dead, also between containers that share
    a volume, where process numbers say nothing.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._root = root or Path(tempfile.gettempdir())
        self._root.mkdir(parents=True, exist_ok=True)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._root))
        self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    @contextmanager
    def attempt(self, name: str) -> Iterator[Place]:
        """Directories for one attempt, gone afterwards whatever happened in them."""
        base = self.path / name
        place = Place(base / "inputs", base / "work", base / "kept")
        try:
            for each in (base, place.inputs, place.work, place.kept):
                each.mkdir(mode=0o700)
            yield place
        finally:
            shutil.rmtree(base, ignore_errors=True)
            if base.exists():
                _log.warning("the scratch directory of attempt %s could not be removed", name)

    def sweep(self) -> int:
        """Removes what dead workers left under the same root; returns how many directories."""
        return sum(_removed(path) for path in self._root.glob(f"{_PREFIX}*") if path != self.path)

    def close(self) -> None:
        """Removes everything; safe to call again."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def _removed(path: Path) -> bool:
    try:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return _removed_unlocked(path)
    except OSError:
        return False  # another user's
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        shutil.rmtree(path, ignore_errors=True)
        return not path.exists()
    finally:
        os.close(lock)


def _removed_unlocked(path: Path) -> bool:
    # Its worker may be between making the directory and locking it.
    try:
        if time.time() - path.stat().st_mtime < _UNLOCKED_S:
            return False
    except OSError:
        return False
    shutil.rmtree(path, ignore_errors=True)
    return not path.exists()
