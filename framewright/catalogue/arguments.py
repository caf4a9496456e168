"""Fixed arguments of every call of a pipeline, as an operator's own row gives them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from types import MappingProxyType
from typing import Any, Final

from framewright.catalogue.diffusion import Diffusion

SEGMENT: Final = "segment_frame_length"
SHARED: Final = "prev_segment_conditioning_frames"
NOISE: Final = "decode_timestep"
"""Arguments that not only the pipeline reads."""
_LONGEST: Final = 100_000
_PASSED: Final = frozenset(
    {"prompt", "negative_prompt", "max_sequence_length", "height", "width", "num_frames", "frame_rate", "fps"}
    | {"num_inference_steps", "generator", "latents", "denoise_strength", "output_type", "return_dict", "conditions"}
    | {"callback_on_step_end", "callback_on_step_end_tensor_inputs"}
)
"""Arguments that a run itself gives to a pipeline, whatever the model."""
_LEVELS: Final = ("timesteps", "sigmas")


class Wrong(Exception):
    """What is wrong with an entry, at a key of it."""

    def __init__(self, key: str, sentence: str) -> None:
        super().__init__(sentence)
        self.key, self.sentence = key, sentence


def called(given: Mapping[str, Any], facts: Diffusion) -> Mapping[str, Any]:
    """Fixed arguments of every call: the row's, and those given instead or besides."""
    taken = _PASSED | {rule.argument for rule in facts.guidance} | {knob.argument for knob in facts.knobs}
    taken |= {argument for ways in facts.slots.values() for way in ways for argument in way.arguments().values()}
    taken |= {facts.strength.argument} if facts.strength else set()
    for name, value in given.items():
        if name in taken:
            raise Wrong(f"call.{name}", "the service gives this one itself")
        if not _plain(value):
            raise Wrong(f"call.{name}", "it must be text, a number, true or false, or a list or table of these")
    call = {**facts.call, **given}
    for name in _LEVELS:
        if name in call and not (
            isinstance(call[name], list | tuple) and len(call[name]) == facts.steps.least == facts.steps.most
        ):
            raise Wrong(f"call.{name}", "it must be a list, and steps.least and steps.most as many as it has entries")
    _segments(call, facts.latents.temporal)
    noise = call.get(NOISE, 0)
    if isinstance(noise, bool) or not isinstance(noise, int | float) or not 0 <= noise <= 1:
        raise Wrong(f"call.{NOISE}", "it must be a number from 0 to 1")
    return MappingProxyType(call)


def _segments(call: Mapping[str, Any], stride: int) -> None:
    """Segments that go on after the frames that they share, and that the pipeline does not make of another length."""
    for name in (SEGMENT, SHARED):
        if name in call and (type(call[name]) is not int or not 1 <= call[name] <= _LONGEST):
            raise Wrong(f"call.{name}", f"it must be a whole number, 1 to {_LONGEST}")
    length, shared = call.get(SEGMENT), call.get(SHARED, 1)
    if length is not None and (length <= shared or (length - 1) % stride):
        raise Wrong(
            f"call.{SEGMENT}", f"it must be {stride} x n + 1, and more than the {shared} that two segments share"
        )


def _plain(value: Any) -> bool:
    """Whether it is what JSON can say. NaN, infinities and times are not."""
    match value:
        case dict():
            return all(map(_plain, value.values()))
        case list():
            return all(map(_plain, value))
        case float():
            return isfinite(value)
    return isinstance(value, str | int)
