"""The shape of a catalogue row: every fact about a model, as data, and the few rules that read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from functools import cache
from math import floor, isqrt, log
from types import MappingProxyType
from typing import Any, Literal

from framewright.catalogue.diffusion import Diffusion
from framewright.params import Params, Slot

Medium = Literal["image", "video"]
Accepted = Literal["image", "video", "audio"]


@dataclass(frozen=True, slots=True)
class Licence:
    """Under which terms a model may be run and its outputs used.

    `excluded_regions` (ISO 3166, and EU) are those where it grants nothing; from a yearly revenue of `revenue_cap_usd`
    on it takes a paid one.
    """

    name: str
    url: str | None = None
    commercial: bool = True
    note: str | None = None
    accept: bool = False
    """Whether an operator must accept the terms before the weights are fetched and used."""
    excluded_regions: tuple[str, ...] = ()
    revenue_cap_usd: int | None = None


@dataclass(frozen=True, slots=True)
class InputRule:
    """One input slot: what it accepts, and how many (more than one only in the slots that are lists)."""

    slot: Slot
    accepts: Accepted
    least: int = 1
    most: int = 1


@dataclass(frozen=True, slots=True)
class Buckets:
    """Sizes of about `base` x `base` pixels in every shape up to 4:1, of which a pipeline itself takes one.

    Its choice among them is by a ratio rounded to five digits, so that it takes another one for a picture that has one
    of the sizes already. Only those that it leaves as they are can be promised.
    """

    base: int
    patch: int = 16

    def every(self) -> tuple[tuple[int, int], ...]:
        """The pipeline's list, from the tallest to the widest."""
        return _every(self)

    def taken(self, width: int, height: int) -> tuple[int, int]:
        """The size that the pipeline takes for a picture of that size."""
        shape = height / width
        apart = {size: round(size[1] / size[0], 5) - shape for size in self.every()}
        fitting = {size: gap for size, gap in apart.items() if (gap <= 0 if shape >= 1 else gap >= 0)}
        return min(fitting, key=lambda size: abs(fitting[size]), default=(0, 0))

    def nearest(self, width: int, height: int) -> tuple[int, int]:
        """Of the sizes that the pipeline leaves as they are, the nearest in shape."""
        return min(_kept(self), key=lambda size: abs(log(size[0] * height / (size[1] * width))))


@cache
def _every(buckets: Buckets) -> tuple[tuple[int, int], ...]:
    patch, patches = buckets.patch, round((buckets.base / buckets.patch) ** 2)
    return tuple(
        (wide * patch, tall * patch)
        for tall in range(patches, 0, -1)
        for wide in range(max(1, patches // (tall + 1)), patches // tall + 1)
        if max(wide, tall) <= 4 * min(wide, tall)
    )


@cache
def _kept(buckets: Buckets) -> tuple[tuple[int, int], ...]:
    return tuple(size for size in buckets.every() if buckets.taken(*size) == size)


@dataclass(frozen=True, slots=True)
class SizeRule:
    """Sides in pixels. `source` says where the size comes from when the request names none.

    picture: the one picture's own, at most `long_edge`; images: that of the first image; params: the params' default;
    model: `default`, or its area in the shape of the first picture. `max_area` bounds width x height. A row with
    `only` makes these sizes and no other; one with `buckets` those of its own list that are nearest in shape.
    """

    source: Literal["picture", "images", "params", "model"]
    multiple: int = 2
    least: int = 32
    most: int = 4096
    long_edge: int | None = None
    default: tuple[int, int] | None = None
    max_area: int | None = None
    only: tuple[tuple[int, int], ...] = ()
    buckets: Buckets | None = None

    def up(self, side: int) -> int:
        """The next allowed side that is not smaller: padding loses nothing, scaling by a pixel blurs it all."""
        return -(-side // self.multiple) * self.multiple

    def nearest(self, side: Fraction | int) -> int:
        """The allowed side nearest to `side`, within the limits."""
        near = floor(Fraction(side) / self.multiple + Fraction(1, 2)) * self.multiple
        return min(max(near, self.up(self.least)), self.most // self.multiple * self.multiple)

    def shaped(self, width: int, height: int) -> tuple[int, int]:
        """The allowed size nearest to this shape whose area is at most that of the default."""
        if self.buckets is not None:
            return self.buckets.nearest(width, height)
        if self.only or self.default is None:
            return self.default or self.only[0]
        room, least, most = self.default[0] * self.default[1], self.up(self.least), self.most
        wide = min(max(self._down(isqrt(room * width // height)), least), most)
        tall = min(max(self._down(isqrt(room * height // width)), least), most)
        # A short side that had to grow to the least takes its area from the long one.
        return (
            (min(wide, self._down(room // tall)), tall) if wide > tall else (wide, min(tall, self._down(room // wide)))
        )

    def _down(self, side: int) -> int:
        return side // self.multiple * self.multiple


@dataclass(frozen=True, slots=True)
class FrameRule:
    """How many frames come out: from `seconds` x `fps`, one for each image, or as the params' `frames` say.

    Where the params say, the counts are `stride` x n + `offset` from `least` to `most`, and `default` without a word.
    """

    source: Literal["seconds", "images", "params"]
    most: int
    stride: int = 1
    offset: int = 0
    least: int = 1
    default: int | None = None

    def up(self, frames: int) -> int:
        """The next allowed count that is not smaller: a few frames more lose nothing."""
        return max(self.least, -(-(frames - self.offset) // self.stride) * self.stride + self.offset)

    def down(self, frames: int) -> int:
        """The next allowed count that is not larger, for what has to come out of so many frames; 0 when none is."""
        count = min(frames, self.most)
        fitting = (count - self.offset) // self.stride * self.stride + self.offset
        return fitting if fitting >= self.least else 0


@dataclass(frozen=True, slots=True)
class SpeedRule:
    """Output megapixels a second: as seen on two plain cores, and so slow that an attempt is given up."""

    typical_mpix_s: float
    floor_mpix_s: float
    base_s: float = 300.0
    longest_s: float = 86_400.0

    def timeout_s(self, pixel_frames: int) -> float:
        """The hard limit of one attempt (s)."""
        return min(self.longest_s, round(self.base_s + pixel_frames / (self.floor_mpix_s * 1e6), 1))


@dataclass(frozen=True, slots=True)
class SeedRule:
    """When a seed is drawn and recorded: when every field named holds one of its values; no field means always."""

    when: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))

    def applies(self, params: Mapping[str, Any]) -> bool:
        return all(params.get(name) in values for name, values in self.when.items())


@dataclass(frozen=True, slots=True)
class Needs:
    """What a worker must have (MB of GPU memory)."""

    vram_mb: int = 0


@dataclass(frozen=True, slots=True)
class Preset:
    """A named set of params; what a request says wins over it."""

    name: str
    title: str
    params: Mapping[str, Any]


class DigitalSource(StrEnum):
    """Where the pixels of an output come from, in the words of the IPTC (newscodes/digitalsourcetype)."""

    TRAINED = "trainedAlgorithmicMedia"
    """Made by a trained model: what the law calls generated."""
    ALGORITHMIC = "algorithmicMedia"
    """Made by an algorithm that was never shown any sample of the world."""
    ALTERED = "algorithmicallyEnhanced"
    """An algorithm altered what it was given ("algorithmically-altered media"; the older name stayed in the id)."""
    COMPOSITE = "composite"
    """Put together of several elements, any of which may or may not be generated."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the signed manifest of an output says of its making; `framewright.provenance.manifest` writes it.

    `c2pa.created` says that the model made it, whatever it was given. Any other `action` is done to the one input,
    which the manifest opens as its parent; an output of several inputs, or of none, is then created from `otherwise`.
    """

    action: str
    source: DigitalSource | None
    says: str
    otherwise: DigitalSource | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """One model. Code elsewhere asks the row and never compares its name."""

    name: str
    title: str
    summary: str
    licence: Licence
    kinds: tuple[str, ...]
    default_for: tuple[str, ...] = ()
    engine: str
    queue: str
    asks: Callable[[], type[Params]]
    """What makes `params`: only once they are asked for, because making those of every model takes a while."""
    inputs: tuple[InputRule, ...]
    output: Medium = "video"
    size: SizeRule
    frames: FrameRule
    max_pixel_frames: int
    speed: SpeedRule
    provenance: Provenance
    seed: SeedRule | None = None
    diffusion: Diffusion | None = None
    """What a worker has to know to run it, where it is a diffusion model."""
    elsewhere: str | None = None
    """Why no worker of this installation can run it, where that is so; such a model is listed and refused."""
    not_yet: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Params that are accepted for clients written against the full contract, and why they change nothing yet."""
    presets: tuple[Preset, ...] = ()
    needs: Needs = Needs()
    test_only: bool = False

    @property
    def params(self) -> type[Params]:
        """What a request may say to it."""
        return self.asks()

    @property
    def capability(self) -> str:
        """What a worker must offer to run it: the engine, and where there are weights, theirs."""
        return f"{self.engine}:{self.name}" if self.diffusion else self.engine

    def preset(self, name: str) -> Preset | None:
        return next((preset for preset in self.presets if preset.name == name), None)
