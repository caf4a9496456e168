"""How much a run of a diffusion model computes, by the final params of its request: what times follow from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from framewright.catalogue.diffusion import SCALES, Diffusion
from framewright.catalogue.row import ModelRow
from framewright.params import parse_size

Pixels = tuple[int, int]


class Effort(NamedTuple):
    """Floating-point operations of all denoise steps, and of one step of the last pass, which workers measure."""

    flops: float
    step: float


def effort(facts: Diffusion, params: Mapping[str, Any]) -> Effort:
    """Of a run with these params. What a step cache spares is not known beforehand, and counted."""
    size, frames = parse_size(params["size"]), int(params["frames"])
    if params.get("refine") and facts.upscale is not None:
        small = facts.upscale.smaller(size, facts.latents.spatial)
        large = (small[0] * facts.upscale.factor, small[1] * facts.upscale.factor)
        last = _step(facts, params, large, frames)
        return Effort(_taken(facts, params) * _step(facts, params, small, frames) + facts.upscale.refining * last, last)
    # A segment is filled up to its whole length.
    step = _step(facts, params, size, facts.call.get("segment_frame_length", frames))
    return Effort(_taken(facts, params) * facts.segments(frames) * step, step)


def typical_s(row: ModelRow, facts: Diffusion, params: Mapping[str, Any]) -> float:
    """Seconds on the GPU that the row's speed is meant for, which it states for the usual clip."""
    size, frames = row.size.default or row.size.shaped(16, 9), row.frames.default or row.frames.most
    usual: dict[str, Any] = {"size": f"{size[0]}x{size[1]}", "frames": frames, "steps": facts.steps.default}
    usual |= {name: rule.default for name, rule in zip(SCALES, facts.guidance, strict=False)}
    usual_s = size[0] * size[1] * frames / (row.speed.typical_mpix_s * 1e6)
    return usual_s * effort(facts, params).flops / effort(facts, usual).flops


def _taken(facts: Diffusion, params: Mapping[str, Any]) -> int:
    """Denoise steps of the first pass, which only a video to video run does not take all of."""
    steps = int(params["steps"])
    if params.get("task") == "v2v" and facts.strength is not None:
        return facts.strength.steps(steps, float(params["strength"]))
    return steps


def _step(facts: Diffusion, params: Mapping[str, Any], size: Pixels, frames: int) -> float:
    grid = facts.latents.grid(size, frames + facts.dropped)
    return facts.forwards(params) * facts.denoiser.flops(grid)
