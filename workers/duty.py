"""A duty: one thing that is done again and again in a thread of its own, whatever happens to the others."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from framewright.errors import FramewrightError

_log = logging.getLogger(__name__)


class Duty:
    """Calls `act` every `every_s` seconds until stopped; `act` answers how many things it did.

    A failure is logged once, and again when it has passed.
    """

    def __init__(self, name: str, every_s: float, act: Callable[[], int]) -> None:
        self.name = name
        self.every_s = every_s
        self._act = act
        self._stop = threading.Event()
        self._since = time.monotonic()
        self._done = 0
        self._failures = 0
        self._error: str | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins with a first round at once."""
        self._thread.start()

    def stop(self) -> None:
        """Begins no further round."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Waits until the round under way has ended; False if it takes longer."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def report(self) -> dict[str, Any]:
        """How it fares: things done since the start, failures in a row, and how long ago the last good round was."""
        return {
            "done": self._done,
            "failures": self._failures,
            "good_s_ago": round(time.monotonic() - self._since, 1),
            "error": self._error,
        }

    def round(self) -> None:
        """One round; raises nothing."""
        try:
            self._done += self._act()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next round may go well
            self._failed(error)
        else:
            if self._failures:
                _log.info("%s works again", self.name)
            self._since, self._failures, self._error = time.monotonic(), 0, None

    def _failed(self, error: Exception) -> None:
        known = isinstance(error, FramewrightError)
        name = error.code if isinstance(error, FramewrightError) else type(error).__name__
        if self._error != name:
            _log.warning("%s fails: %s", self.name, error if known else name, exc_info=None if known else error)
        self._failures += 1
        self._error = name

    def _run(self) -> None:
        while not self._stop.is_set():
            self.round()
            self._stop.wait(self.every_s)
