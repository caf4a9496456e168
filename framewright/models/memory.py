"""GPU memory: what each way to place a model takes of it, and which way a GPU has room for. Pure.

One unit everywhere, in rows, in what workers say and in what people read: 1 MB is a million bytes. A row's figures name
classes of cards as they are sold (24, 48, 80 GB); `CLASS` is the one rule for which cards belong to a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from framewright.catalogue.diffusion import Diffusion, Profile
from framewright.catalogue.row import ModelRow
from framewright.errors import InsufficientVram
from framewright.models.estimate import Component

MB: Final = 1_000_000
CLASS: Final = 0.97
"""A card has room for what its class takes when this part of that is there. The driver and ECC keep some for
themselves: of cards of 24 GB an L4 shows 23,650 MB and a 4090 25,390, of those of 48 GB an A40 47,620."""
_WIDTH: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
_DENOISERS: Final = frozenset({"transformer", "transformer_2", "unet", "."})


def has_room(vram_mb: float, needed_mb: float) -> bool:
    """Whether a GPU that shows so much memory has room for what a row or `needed_mb` says."""
    return vram_mb >= needed_mb * CLASS


def loaded_bytes(facts: Diffusion, parts: Sequence[Component], *, fp8: bool = False) -> list[int]:
    """What each component takes once it is loaded, in the precision that the row asks for, whatever the files have."""
    return [part.numbers * _width(facts, part.name, fp8) for part in parts]


def needed_mb(row: ModelRow, profile: Profile, parts: Sequence[Component] = (), work: int = 0) -> int:
    """What a profile takes for a clip of `work` pixels in all frames together: never less than the row's figure.

    `parts` are the weights as they lie on disk; without them the figure is all there is. What the figure has beyond the
    weights is what the usual clip of the model takes, and a larger one takes more in proportion.
    """
    if row.diffusion is None or not parts:
        return profile.vram_mb
    sizes = loaded_bytes(row.diffusion, parts, fp8=profile.fp8)
    # Blocks and layers come and go: how much of them is there at a time is for the row's figure to say.
    weights = {"none": sum(sizes), "model": max(sizes)}.get(profile.offload, 0) // MB
    beyond = max(0, profile.vram_mb - weights)
    return round(weights + beyond * max(1.0, work / _usual(row)))


def least_mb(row: ModelRow, parts: Sequence[Component] = ()) -> int:
    """The least that any profile of a diffusion model takes, for its usual clip."""
    profiles = row.diffusion.profiles if row.diffusion else ()
    return min((needed_mb(row, profile, parts) for profile in profiles), default=0)


def profile_for(
    row: ModelRow, vram_mb: int, parts: Sequence[Component] = (), work: int = 0, after: str | None = None
) -> Profile:
    """The first of the row's profiles that a GPU has room for; `InsufficientVram` names the least.

    A clip too large for all of them gets the one that takes the least: whether it fits after all is tried. `after`
    names one that turned out to be too large: one further down is taken, or the last again.
    """
    profiles = row.diffusion.profiles if row.diffusion else ()
    able = [profile for profile in profiles if has_room(vram_mb, needed_mb(row, profile, parts))]
    if not able:
        raise InsufficientVram(too_small(row.name, least_mb(row, parts), vram_mb))
    fits = next((one for one in able if has_room(vram_mb, needed_mb(row, one, parts, work))), able[-1])
    failed = next((place for place, one in enumerate(able) if one.name == after), -1)
    return able[min(max(able.index(fits), failed + 1), len(able) - 1)]


def too_small(name: str, needed: float, there: float, what: str = "GPU memory") -> str:
    """The sentence for a model that takes more megabytes than there are."""
    return f"{name} needs at least {needed / 1000:.3g} GB of {what}, and this worker has {there / 1000:.3g} GB"


def _width(facts: Diffusion, name: str, fp8: bool) -> int:
    part = name.rpartition("/")[2]
    return 1 if fp8 and part in _DENOISERS else _WIDTH[facts.dtypes.get(part, facts.dtypes["default"])]


def _usual(row: ModelRow) -> int:
    """Pixels of all frames of the clip that the row's figures are for."""
    width, height = row.size.default or row.size.shaped(16, 9)
    return max(1, width * height * (row.frames.default or row.frames.most))
