"""Why the attempt in hand should end before it is done, and until when that may take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import IntEnum


class Why(IntEnum):
    """Stronger reasons have greater numbers and replace weaker ones."""

    YIELD = 1
    """The worker drains: stop at the next boundary; what is finished in time is still committed."""
    YIELD_NOW = 2
    """The worker was told twice: give the step back at once."""
    LOST = 3
    """The step is no longer ours (canceled, reaped): commit nothing, say nothing."""


class Halt:
    """The one place where reasons to stop meet; safe between threads.

    `on_ask` is called for each reason that counts, from the thread that brought it.
    """

    def __init__(self, *, cancel_grace_s: float, drain_grace_s: float, on_ask: Callable[[Why], None]) -> None:
        self._grace_s = {Why.YIELD: drain_grace_s, Why.YIELD_NOW: 0.0, Why.LOST: cancel_grace_s}
        self._on_ask = on_ask
        self._lock = threading.Lock()
        self.why: Why | None = None
        self.deadline = float("inf")
        """When patience ends (`time.monotonic`)."""
        self._leave_by = float("inf")

    def ask(self, why: Why) -> None:
        """Asks the attempt to end; a reason weaker than the present one changes nothing."""
        with self._lock:
            if self.why is not None and why <= self.why:
                return
            self.why = why
            self.deadline = min(self.deadline, time.monotonic() + self._grace_s[why])
            if why is not Why.LOST:
                self._leave_by = self.deadline
        self._on_ask(why)

    @property
    def lost(self) -> bool:
        return self.why is Why.LOST

    @property
    def yielding(self) -> bool:
        return self.why in (Why.YIELD, Why.YIELD_NOW)

    @property
    def leaving(self) -> bool:
        """Whether the worker has waited as long as it may and goes, whatever is unfinished."""
        return time.monotonic() >= self._leave_by

    @property
    def over(self) -> bool:
        """Whether work that need not finish must stop now."""
        return self.lost or time.monotonic() >= self.deadline
