"""What a test has to know of a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Layout = Literal["bcfhw", "bfchw", "packed"]
PROMPT = "a cat dancing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiny:
    """A model of random weights: its pipeline class, how it is made, and its smallest call.

    `call` makes the keyword arguments anew (pictures among them), all but steps, generator and output type. `frames`
    are those asked for, `width` and `height` in pixels. `schedulers` is how many the pipeline steps, `segments` how
    often it runs its loop. `causal`: the first frame of a decoded clip depends on nothing but the first latent frame.
    """

    pipeline: str
    make: Callable[[], Any]
    call: Callable[[], Mapping[str, Any]]
    family: str
    layout: Layout = "bcfhw"
    frames: int = 9
    width: int = 32
    height: int = 32
    schedulers: int = 1
    segments: int = 1
    causal: bool = False
    audio: bool = False
