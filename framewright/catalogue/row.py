"""The shape of a catalogue row: every fact about a model, as data, and the few rules that read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from math import floor
from types import MappingProxyType
from typing import Any, Literal

from framewright.params import Params

Medium = Literal["image", "video"]


@dataclass(frozen=True, slots=True)
class Licence:
    """Under which terms a model's outputs may be used."""

    name: str
    url: str | None = None
    commercial: bool = True
    note: str | None = None


@dataclass(frozen=True, slots=True)
class InputRule:
    """One input slot: what it accepts, and how many (`images` is the only slot that takes more than one)."""

    slot: Literal["image", "images", "video"]
    accepts: Medium
    least: int = 1
    most: int = 1


@dataclass(frozen=True, slots=True)
class SizeRule:
    """Sides in pixels. `source` says where the size comes from when the request names none.

    picture: the one picture's own, at most `long_edge`; images: that of the first image; params: the params' default.
    """

    source: Literal["picture", "images", "params"]
    multiple: int = 2
    least: int = 32
    most: int = 4096
    long_edge: int | None = None

    def up(self, side: int) -> int:
        """The next allowed side that is not smaller: padding loses nothing, scaling by a pixel blurs it all."""
        return -(-side // self.multiple) * self.multiple

    def nearest(self, side: Fraction | int) -> int:
        """The allowed side nearest to `side`, within the limits."""
        near = floor(Fraction(side) / self.multiple + Fraction(1, 2)) * self.multiple
        return min(max(near, self.up(self.least)), self.most // self.multiple * self.multiple)


@dataclass(frozen=True, slots=True)
class FrameRule:
    """How many frames come out: from `seconds` x `fps`, one for each image, or as the params' `frames` say."""

    source: Literal["seconds", "images", "params"]
    most: int


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
    params: type[Params]
    inputs: tuple[InputRule, ...]
    output: Medium = "video"
    size: SizeRule
    frames: FrameRule
    max_pixel_frames: int
    speed: SpeedRule
    provenance: Provenance
    seed: SeedRule | None = None
    not_yet: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Params that are accepted for clients written against the full contract, and why they change nothing yet."""
    presets: tuple[Preset, ...] = ()
    needs: Needs = Needs()
    test_only: bool = False

    def preset(self, name: str) -> Preset | None:
        return next((preset for preset in self.presets if preset.name == name), None)
