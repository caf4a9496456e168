"""What servers and services share: one child at a time, the verbs that tests of faults use, and being kept alive."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from framewright.embedded.child import Child
from framewright.embedded.datadir import DataDir
from framewright.errors import EmbeddedServerError, FramewrightError

log = logging.getLogger(__name__)

_LOOK_S = 0.2
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 15.0
# Up for this long, an end counts as the first again.
_STEADY_S = 30.0
# From this many ends in a row on, the log is shown.
_TELL_AFTER = 3


class Kept(ABC):
    """A process that is either wanted, and then comes back when it dies, or was told to be down, and stays so."""

    def __init__(self, data: DataDir, name: str) -> None:
        self.data = data
        self.name = name
        self._child: Child | None = None
        self._wanted = False
        self._turn = threading.RLock()

    @property
    def pid(self) -> int:
        """The process id, of the last process when it is down."""
        return self._latest.pid

    @property
    def running(self) -> bool:
        """Whether the process lives (paused counts)."""
        return self._child is not None and self._child.exit_code is None

    @property
    def fallen(self) -> bool:
        """Whether it died although it is wanted."""
        return self._wanted and not self.running

    def start(self) -> None:
        """Start it if it is down; raises `EmbeddedServerError`."""
        with self._turn:
            if not self.running:
                self._launch()
            self._wanted = True

    def revive(self) -> bool:
        """Start it again if it died by itself; whether it did."""
        with self._turn:
            if not self.fallen:
                return False
            self._latest.stop()
            self._launch()
            return True

    def stop(self) -> None:
        """End it cleanly; its data stays, and it stays down."""
        with self._turn:
            self._wanted = False
            if self._child is not None:
                self._child.stop()

    def kill(self) -> None:
        """SIGKILL with all its descendants, as in a crash; it stays down until `start`."""
        with self._turn:
            self._wanted = False
            self._latest.kill()

    def restart(self) -> None:
        """Stop cleanly and start."""
        with self._turn:
            self.stop()
            self.start()

    def pause(self) -> None:
        """SIGSTOP with all its descendants: hung, holding its connections."""
        self._latest.pause()

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        self._latest.resume()

    def tail(self) -> str:
        """The last lines of its log."""
        return self._latest.tail()

    @property
    def _latest(self) -> Child:
        if self._child is None:
            raise EmbeddedServerError(f"{self.name} was never started")
        return self._child

    @abstractmethod
    def _launch(self) -> None:
        """Set `_child` to a new process that does its work, or raise `EmbeddedServerError`."""


@dataclass(slots=True)
class _Falls:
    """How often one process fell in a row, and when it is due again (of `time.monotonic`; None: it stands)."""

    count: int = 0
    revived: float = 0.0
    due: float | None = None


class Keeper:
    """A thread that brings fallen processes back, with growing pauses for one that keeps dying."""

    def __init__(self, kept: Callable[[], Iterable[Kept]]) -> None:
        self._kept = kept
        self._falls: dict[Kept, _Falls] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="keeper", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """Stop watching; nothing is revived after this returns."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(_LOOK_S):
            for one in list(self._kept()):
                falls = self._falls.setdefault(one, _Falls())
                if not one.fallen:
                    falls.due = None
                elif falls.due is None:
                    self._fell(one, falls)
                elif time.monotonic() >= falls.due and not self._done.is_set():
                    self._revive(one, falls)

    def _fell(self, one: Kept, falls: _Falls) -> None:
        now = time.monotonic()
        falls.count = falls.count + 1 if now - falls.revived < _STEADY_S else 1
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (falls.count - 1))
        falls.due = now + pause_s
        if falls.count < _TELL_AFTER:
            log.warning("%s died and is started again", one.name)
        else:
            said = one.tail()
            log.error("%s died %d times, next try in %.0f s; it says:\n%s", one.name, falls.count, pause_s, said)

    def _revive(self, one: Kept, falls: _Falls) -> None:
        try:
            one.revive()
        except FramewrightError as error:
            log.warning("%s", error.detail)
            self._fell(one, falls)
        else:
            falls.revived, falls.due = time.monotonic(), None
