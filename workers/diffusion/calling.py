"""From normalised parameters to the arguments of a pipeline's call. What differs between families stands here."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, Final

import torch
from PIL import Image

from framewright.catalogue.diffusion import SCALES, Diffusion, Task
from framewright.params import parse_size
from workers.diffusion import hearing
from workers.media.sound import Sound

_GUIDER: Final = "guider"


@dataclass(frozen=True, slots=True)
class Keyframe:
    """An image that frame `frame` (from 0; negative counts from the end) is to show, as strongly as 0..1."""

    image: Image.Image
    frame: int
    strength: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """What a call is conditioned on, by slot, each picture in the size of the clip; None where nothing was given."""

    image: Image.Image | None = None
    last_image: Image.Image | None = None
    keyframes: Sequence[Keyframe] | None = None
    video: list[Image.Image] | None = None
    mask: list[Image.Image] | None = None
    reference_images: list[Image.Image] | None = None
    pose_video: list[Image.Image] | None = None
    face_video: list[Image.Image] | None = None
    audio: Sound | None = None

    def slots(self) -> set[str]:
        """The slots that hold something."""
        return {one.name for one in fields(self) if getattr(self, one.name) is not None}

    def conditions(self) -> list[Keyframe]:
        """The pictures as keyframes, for pipelines that know only those."""
        ends = [Keyframe(self.image, 0)] if self.image is not None else []
        ends += [Keyframe(self.last_image, -1)] if self.last_image is not None else []
        return [*ends, *(self.keyframes or ())]


def generator(seed: int) -> torch.Generator:
    """Seeded on the CPU, so that the same seed gives the same noise on every device."""
    return torch.Generator("cpu").manual_seed(seed)


def arguments(facts: Diffusion, pipe: Any, task: Task, params: Mapping[str, Any], media: Media) -> dict[str, Any]:
    """Keyword arguments of `pipe(...)`, all but the generator. Frames come out as floats, (1, T, 3, H, W) in 0..1.

    Whatever the request said is passed; a pipeline that does not take it fails loudly. Only the clip's shape is left
    out where a pipeline finds it in its inputs.
    """
    accepted = inspect.signature(type(pipe).__call__).parameters
    width, height = parse_size(params["size"])
    rate = Fraction(params["fps"])
    shape: dict[str, Any] = {"height": height, "width": width, "num_frames": int(params["frames"]) + facts.dropped}
    shape |= {"frame_rate": float(rate), "fps": round(rate)}
    given: dict[str, Any] = {name: value for name, value in shape.items() if name in accepted}
    given |= {"num_inference_steps": int(params["steps"]), "output_type": "pt", **facts.call}
    if facts.prompt:
        given["prompt"] = params["prompt"]
        if facts.max_tokens is not None:
            given["max_sequence_length"] = facts.max_tokens
    if facts.negative is not None:
        given["negative_prompt"] = negative(facts, params)
    for rule, name in zip(facts.guidance, SCALES, strict=False):
        if rule.argument != _GUIDER:
            given[rule.argument] = float(params[name])
    given |= {knob.argument: params[knob.name] for knob in facts.knobs}
    if task == "v2v" and facts.strength is not None:
        strength = float(params["strength"])
        given[facts.strength.argument] = 1 - strength if facts.strength.kept else strength
    frames = int(params["frames"])
    given |= _conditioning(facts, task, media, frames)
    if media.audio is not None and facts.audio_window is not None:
        given[hearing.LATENTS] = hearing.latents(pipe, media.audio, frames / rate, facts.audio_window)
    return given


def negative(facts: Diffusion, params: Mapping[str, Any]) -> str | None:
    """The negative prompt that is passed: the one asked for, or the row's; None where the pipeline takes none."""
    return None if facts.negative is None else str(params.get("negative_prompt") or facts.negative)


def segments(facts: Diffusion, params: Mapping[str, Any]) -> int:
    """How often the pipeline runs its loop: a long clip is made in segments that share frames with the one before."""
    return facts.segments(int(params["frames"]))


def guide(facts: Diffusion, pipe: Any, params: Mapping[str, Any]) -> None:
    """Sets the scale of pipelines that have a guider instead of an argument."""
    if any(rule.argument == _GUIDER for rule in facts.guidance):
        pipe.guider = pipe.guider.new(guidance_scale=float(params["guidance"]))


def _conditioning(facts: Diffusion, task: Task, media: Media, frames: int) -> dict[str, Any]:
    """What was given in each slot, under the argument that the row names for it."""
    way = next(way for way in facts.slots[task] if way.needs.keys() <= media.slots() <= way.arguments().keys())
    given: dict[str, Any] = {}
    for slot, argument in way.arguments().items():
        value = getattr(media, slot)
        if argument == "conditions":
            given[argument] = _conditions(facts, media.conditions(), frames)
        elif value is not None:
            given[argument] = value
    return given


def _conditions(facts: Diffusion, keyframes: Sequence[Keyframe], frames: int) -> list[Any]:
    if facts.family == "ltx2":
        from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition

        # Its places are latent frames: the first stands for one frame, each further one for `temporal`.
        stride = facts.latents.temporal
        return [
            LTX2VideoCondition(frames=one.image, index=-(-(one.frame % frames) // stride), strength=one.strength)
            for one in keyframes
        ]
    from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

    return [
        LTXVideoCondition(image=one.image, frame_index=one.frame % frames, strength=one.strength) for one in keyframes
    ]
