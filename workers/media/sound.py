"""The sound of a clip: floats from a model become 16-bit samples of exactly the clip's length."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framewright import sounds
from framewright.errors import EngineError

_SILENT = 32  # of 32,768; what lossy codecs make of nothing stays below


@dataclass(frozen=True, slots=True)
class Sound:
    """Samples (channels, count) in -1..1, and how many of them make a second."""

    samples: NDArray[np.float32]
    rate: int

    @property
    def channels(self) -> int:
        return int(self.samples.shape[0])


@dataclass(frozen=True, slots=True)
class Written:
    """A WAV file that lasts as long as its clip: `count` samples in each channel, `rate` of them a second."""

    path: Path
    rate: int
    channels: int
    count: int
    silent: bool
    changed_s: float
    """Seconds of silence added at the end, or, below 0, of sound cut off there."""


def write(sound: Sound, path: Path, seconds: Fraction) -> Written:
    """16-bit PCM of exactly that length (seconds, to the nearest sample): cut at the end, or filled up with silence.

    `EngineError` for numbers that are no sound.
    """
    samples = sound.samples
    if samples.ndim != 2 or sounds.objection(sound.rate, sound.channels):
        raise EngineError(f"sound of shape {samples.shape} at {sound.rate} samples a second is none")
    if not np.isfinite(samples).all():
        raise EngineError("the model made numbers that are no sound (NaN); its weights may be damaged")
    count = round(seconds * sound.rate)
    there = samples.shape[1]
    fitted = np.zeros((samples.shape[0], count), np.int16)
    kept = samples[:, :count]
    fitted[:, : kept.shape[1]] = np.rint(np.clip(kept, -1, 1) * 32767).astype(np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(fitted.shape[0])
        file.setsampwidth(2)
        file.setframerate(sound.rate)
        file.writeframes(np.ascontiguousarray(fitted.T).astype("<i2").tobytes())
    silent = not fitted.size or int(np.abs(fitted.astype(np.int32)).max()) <= _SILENT
    return Written(path, sound.rate, fitted.shape[0], count, silent, round((count - there) / sound.rate, 6))


def loud(samples: NDArray[Any]) -> bool:
    """Whether decoded samples, floats or 16-bit integers, are more than silence."""
    least = _SILENT / 32768 if samples.dtype.kind == "f" else _SILENT
    return bool(samples.size) and bool(np.abs(samples.astype(np.float64)).max() > least)
