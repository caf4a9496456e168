"""How pictures and videos that were given go into a clip of a diffusion model: what is cropped, what moves. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from framewright.catalogue.diffusion import Diffusion
from framewright.catalogue.shaping import Adjusted, Pixels, Refused
from framewright.params import Keyframe

_SQUARE = "/face_video"


def cropped(size: Pixels, given: Mapping[str, Pixels]) -> Iterator[Adjusted]:
    """Whatever is seen less of than was given: by pointer below `input`, scaled to cover the clip and cut about it."""
    for place, (width, height) in given.items():
        cover = (min(size), min(size)) if place == _SQUARE else size
        scale = max(cover[0] / width, cover[1] / height)
        seen = (round(cover[0] / scale), round(cover[1] / scale))
        if seen != (width, height):
            into = "a square" if place == _SQUARE else f"{cover[0]}x{cover[1]}"
            why = f"it has another shape than {into}, so it is cropped about its middle to fit: this much of it is seen"
            yield Adjusted(f"/input{place}", f"{width}x{height}", f"{seen[0]}x{seen[1]}", why)


def keyframes(facts: Diffusion, asked: Sequence[Keyframe], frames: int) -> tuple[list[dict[str, Any]], list[Adjusted]]:
    """Where the keyframes go, in their order, and which of them are not where they were asked for.

    `Refused` for one past the end of the clip, and for two at one frame.
    """
    placed: list[dict[str, Any]] = []
    told: list[Adjusted] = []
    for index, one in enumerate(asked):
        frame = frames - 1 if one.frame == -1 else one.frame
        where = f"/input/keyframes/{index}/frame"
        if frame >= frames:
            raise Refused(where, "out_of_range", f"the clip has {frames} frames, 0 to {frames - 1}")
        used = facts.keyframe(frame)
        if used in {other["frame"] for other in placed}:
            raise Refused(where, "duplicate", f"another picture is at frame {used}")
        if used != frame:
            why = f"this model takes pictures at frame 0, and from frame 1 on at every {facts.latents.temporal}th frame"
            told.append(Adjusted(where, one.frame, used, why))
        placed.append({"frame": used, "strength": one.strength})
    return placed, told
