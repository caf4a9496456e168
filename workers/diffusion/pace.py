"""How fast a run is: how far into a step the device has come, what a step takes, and what is still to come."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

EVERY_S: Final = 1.0
"""How often a step that takes long tells how far it is."""
Clock = Callable[[], float]


class Blocks:
    """How far into a step a run is, by the blocks of its denoiser that are done; a step has `count` or a multiple.

    A GPU is handed work far ahead of doing it, so a block that was begun is no sign of life. `wait` returns when the
    device has done what it was handed: it is called after the first block of a step and then about once in `EVERY_S`,
    which costs nothing worth speaking of.
    """

    def __init__(self, count: int, wait: Callable[[], None], clock: Clock = time.monotonic) -> None:
        self._count, self._wait, self._clock = count, wait, clock
        self._whole: int | None = None
        self._begun = self._told = 0
        self._after = 0
        self._at = clock() - EVERY_S

    def begin(self) -> float | None:
        """One more block is about to begin: the part of the step that is done (0..1), or None when it was just told."""
        done, self._begun = self._begun, self._begun + 1
        if done - self._told < self._after and self._clock() - self._at < EVERY_S:
            return None
        self._wait()
        now = self._clock()
        each = (now - self._at) / max(1, done - self._told)
        self._after = max(1, int(EVERY_S / each)) if done and each > 0 else 1
        self._told, self._at = done, now
        # How often the first step calls the denoiser nobody knows before its end; so told, it is never taken for done.
        return min(1.0, done / (self._whole or done + self._count))

    def stepped(self) -> None:
        """The step is over."""
        self._whole, self._begun, self._told, self._after = self._begun or None, 0, 0, 1
        self._at = self._clock()


class Pace:
    """Seconds a step takes, without what happens between two steps."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None
        self._seconds, self._count = 0.0, 0

    @property
    def step_s(self) -> float | None:
        """The mean so far; None before a step was measured."""
        return self._seconds / self._count if self._count else None

    def begin(self) -> None:
        """The next step begins."""
        self._since = self._clock()

    def end(self) -> None:
        """A step ended; one that was not begun here pays for other things too, and is not counted."""
        if self._since is not None:
            self._seconds, self._count = self._seconds + self._clock() - self._since, self._count + 1
        self._since = None

    def forget(self) -> None:
        """What comes now is of another size."""
        self._seconds, self._count = 0.0, 0


class Ending:
    """What came after the last step in the newest run of a model: seconds for each pixel of each frame."""

    def __init__(self) -> None:
        self._decoding: float | None = None
        self._encoding: dict[str, float] = {}

    def learn(self, work: int, codec: str, *, decoding_s: float, encoding_s: float) -> None:
        """A clip of `work` pixels, all frames together, took so long to be decoded and then encoded with `codec`."""
        self._decoding, self._encoding[codec] = decoding_s / work, encoding_s / work

    def seconds(self, work: int, codec: str) -> float | None:
        """How long such a clip will take, as far as that is known; None before there was any."""
        return None if self._decoding is None else work * (self._decoding + self._encoding.get(codec, 0.0))
