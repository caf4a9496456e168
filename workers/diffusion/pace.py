"""How fast a run is: how far into a step the device has come, what a step takes, and what is still to come."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import fmean, quantiles
from typing import Final, Literal, NamedTuple

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


class Each(NamedTuple):
    """Seconds of a step: the mean, what nine of ten stay below, and what is known of them."""

    mean_s: float
    slow_s: float
    basis: Literal["measured", "flops"] = "measured"

    def times(self, factor: float) -> Each:
        """Of one that takes so many times as long."""
        return Each(self.mean_s * factor, self.slow_s * factor, self.basis)


class Pace:
    """Seconds a step takes, without what happens between two steps."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None
        self._seconds: list[float] = []

    @property
    def each(self) -> Each | None:
        """Of the steps so far; None before one was measured."""
        if not self._seconds:
            return None
        slow_s = quantiles(self._seconds, n=10, method="inclusive")[-1] if self._seconds[1:] else self._seconds[0]
        return Each(fmean(self._seconds), slow_s)

    def begin(self) -> None:
        """The next step begins."""
        self._since = self._clock()

    def end(self) -> None:
        """A step ended; one that was not begun here pays for other things too, and is not counted."""
        if self._since is not None:
            self._seconds.append(self._clock() - self._since)
        self._since = None

    def forget(self) -> None:
        """What comes now is of another size."""
        self._seconds.clear()


class Past:
    """What the newest run of a model took here: seconds for each operation of a step, and, after the last one, for each
    pixel of each frame."""

    def __init__(self) -> None:
        self._operation: Each | None = None
        self._decoding: float | None = None
        self._encoding: dict[str, float] = {}

    def learn(self, each: Each | None, flops: float) -> None:
        """Steps of `flops` operations took so long; None where none was measured."""
        if each is not None:
            self._operation = each.times(1 / flops)

    def learn_ending(self, work: int, codec: str, *, decoding_s: float, encoding_s: float) -> None:
        """A clip of `work` pixels, all frames together, took so long to be decoded and then encoded with `codec`."""
        self._decoding, self._encoding[codec] = decoding_s / work, encoding_s / work

    def each(self, flops: float) -> Each | None:
        """How long a step of so many operations will take; None before there was any."""
        return None if self._operation is None else self._operation.times(flops)

    def ending_s(self, work: int, codec: str) -> float | None:
        """How long such a clip will take after its last step, as far as that is known; None before there was any."""
        return None if self._decoding is None else work * (self._decoding + self._encoding.get(codec, 0.0))
