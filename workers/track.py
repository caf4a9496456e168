"""How far the attempt in hand is: one snapshot that never falls, and whether it still moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from framewright.jobs import Eta, Phase, Progress

_SHARES: Final = {
    Phase.STARTING: (0.0, 0.0),
    Phase.DOWNLOADING: (0.0, 0.02),
    Phase.CHECKING: (0.95, 0.97),
    Phase.SIGNING: (0.97, 0.97),
    Phase.UPLOADING: (0.97, 0.99),
}
_RENDERING: Final = (0.02, 0.95)
_SILENT: Final = frozenset({Phase.LOADING_MODEL, Phase.ENCODING_PROMPT, Phase.UPSCALING, Phase.DECODING})
SILENT_S: Final = 1800.0
"""How long a phase may last in which nothing tells how far it is: weights from a slow disk, text that is encoded on a
CPU, all latents of a long clip decoded at once. It is no stall before this; the hard limit of the attempt holds."""
_ETA_FROM: Final = 0.05


class Track:
    """Merges what the runner and the transfers report; `publish` gets each new snapshot. Safe between threads.

    A phase fills its share of the whole, so the fraction reaches 0.99 only when all is uploaded. `moves` counts real
    advances: a report that says what was already known does not move the attempt, so a hung runner cannot look alive.
    """

    def __init__(self, publish: Callable[[Progress], None]) -> None:
        self._publish = publish
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._best: tuple[float, int, int] = (0.0, 0, 0)
        self._rendering_since: float | None = None
        self.snapshot = Progress()
        self.moves = 0
        self._ours = False
        self.moved_at = time.monotonic()

    def report(self, progress: Progress) -> None:
        """A snapshot of one phase, whose fraction is 0..1 within that phase."""
        with self._lock:
            snapshot = self._merged(progress)
            best = (snapshot.fraction, snapshot.frames_done or 0, snapshot.step or 0)
            if progress.phase in self._seen and not any(new > old for new, old in zip(best, self._best, strict=True)):
                return
            self._seen.add(progress.phase)
            self._best = (max(best[0], self._best[0]), max(best[1], self._best[1]), max(best[2], self._best[2]))
            self.snapshot = snapshot
            self._moved()
        self._publish(snapshot)

    @contextmanager
    def ours(self) -> Iterator[None]:
        """For work of the supervisor itself, which has limits of its own: an S3 that is away is not a hung runner."""
        self._ours = True
        try:
            yield
        finally:
            self._ours = False
            with self._lock:
                self._moved()

    @property
    def patient(self) -> bool:
        """Whether it counts as moving although nothing is reported: our own work, and a phase that cannot tell."""
        return self._ours or (self._silent and time.monotonic() < self.moved_at + SILENT_S)

    def quiet_until(self, stall_s: float) -> float:
        """When an attempt that reports nothing more has stalled (`time.monotonic`)."""
        return self.moved_at + (max(stall_s, SILENT_S) if self._silent else stall_s)

    @property
    def _silent(self) -> bool:
        return self.snapshot.phase in _SILENT

    def _moved(self) -> None:
        self.moves += 1
        self.moved_at = time.monotonic()

    def _merged(self, progress: Progress) -> Progress:
        low, high = _SHARES.get(Phase(progress.phase), _RENDERING) if progress.phase in set(Phase) else _RENDERING
        fraction = low + (high - low) * min(1.0, max(0.0, progress.fraction))
        last = self.snapshot
        return replace(
            progress,
            fraction=min(0.99, max(fraction, last.fraction)),
            # What a phase does not count stays as the last one left it.
            step=_latest(progress.step, last.step),
            steps=progress.steps if progress.steps is not None else last.steps,
            frames_done=_latest(progress.frames_done, last.frames_done),
            frames_total=progress.frames_total if progress.frames_total is not None else last.frames_total,
            eta=progress.eta if progress.eta is not None else self._eta(progress),
        )

    def _eta(self, progress: Progress) -> Eta | None:
        now = time.monotonic()
        if progress.phase in _SHARES:
            return None
        if self._rendering_since is None:
            self._rendering_since = now
        if not _ETA_FROM <= progress.fraction <= 1:
            return None
        left_s = (now - self._rendering_since) / progress.fraction * (1 - progress.fraction)
        return Eta(left_s, None, "current_step")


def _latest(new: int | None, old: int | None) -> int | None:
    return old if new is None else max(new, old or 0)
