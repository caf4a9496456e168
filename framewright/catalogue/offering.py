"""From the facts of a diffusion model to its row: what follows from them is worked out here and stated nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Final

from framewright.catalogue.asking import diffusion_params, input_rules
from framewright.catalogue.diffusion import Diffusion, Profile, Task
from framewright.catalogue.row import (
    DigitalSource,
    FrameRule,
    Licence,
    ModelRow,
    Needs,
    Preset,
    Provenance,
    SeedRule,
    SizeRule,
    SpeedRule,
)

ENGINE: Final = "diffusion"
QUEUE: Final = "gpu"
PATIENCE: Final = 30.0
"""An attempt is given up when it is this much slower than usual: GPUs differ that much, and so do steps asked for."""
FROM_PICTURES: Final[frozenset[Task]] = frozenset({"i2v", "first-last", "keyframes", "character"})
MADE: Final = Provenance(
    "c2pa.created", DigitalSource.TRAINED, "A trained diffusion model made these frames, as a request described them."
)


def offer(
    name: str,
    title: str,
    summary: str,
    *,
    facts: Diffusion,
    licence: Licence,
    size: SizeRule,
    frames: FrameRule,
    typical_mpix_s: float,
    presets: tuple[Preset, ...] = (),
    default_for: tuple[str, ...] = (),
) -> ModelRow:
    """The row of a diffusion model. `typical_mpix_s`: output megapixels a second on a GPU of 24 to 80 GB, a guess."""
    tasks = set(facts.pipelines)
    kinds = (*(["generate"] if tasks - FROM_PICTURES else []), *(["animate"] if tasks & FROM_PICTURES else []))
    return ModelRow(
        name=name,
        title=title,
        summary=summary,
        licence=licence,
        kinds=kinds,
        default_for=default_for,
        engine=ENGINE,
        queue=QUEUE,
        asks=cache(partial(diffusion_params, name, facts, size, frames)),
        inputs=input_rules(facts),
        size=size,
        frames=frames,
        max_pixel_frames=_largest(size) * frames.most,
        speed=SpeedRule(typical_mpix_s=typical_mpix_s, floor_mpix_s=typical_mpix_s / PATIENCE, base_s=1800.0),
        provenance=MADE,
        seed=SeedRule(),
        diffusion=facts,
        presets=presets,
        needs=Needs(vram_mb=min(profile.vram_mb for profile in facts.profiles)),
    )


def _largest(size: SizeRule) -> int:
    """Pixels of the largest frame."""
    if size.buckets is not None:
        return size.buckets.base**2
    return max((wide * tall for wide, tall in size.only), default=size.max_area or size.most**2)


def presets(
    draft: Mapping[str, Any] | None, fast: Mapping[str, Any] | None, quality: Mapping[str, Any]
) -> tuple[Preset, ...]:
    """The three that every row has where it has a choice: a look at the idea, a good clip soon, the best there is."""
    named = (("draft", "Draft", draft), ("fast", "Fast", fast), ("quality", "Quality", quality))
    return tuple(
        Preset(name, title, MappingProxyType(dict(params))) for name, title, params in named if params is not None
    )


def whole(vram_mb: int, *, tiling: bool = False) -> Profile:
    """Everything stays on the GPU."""
    return Profile(name="whole", vram_mb=vram_mb, tiling=tiling)


def parts(vram_mb: int, *, fp8: bool = False, tiling: bool = True) -> Profile:
    """One component at a time is on the GPU."""
    return Profile(name="parts-fp8" if fp8 else "parts", vram_mb=vram_mb, offload="model", fp8=fp8, tiling=tiling)


def groups(vram_mb: int, *, fp8: bool = False, tiling: bool = True) -> Profile:
    """Blocks of the denoiser come and go."""
    return Profile(name="groups-fp8" if fp8 else "groups", vram_mb=vram_mb, offload="group", fp8=fp8, tiling=tiling)


def leaves(vram_mb: int, *, tiling: bool = True) -> Profile:
    """Layers come and go: the least memory, the most waiting."""
    return Profile(name="leaves", vram_mb=vram_mb, offload="leaf", tiling=tiling)
