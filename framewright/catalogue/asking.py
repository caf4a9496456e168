"""What a request may say to a diffusion model: params and input slots, made from the facts of its row. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import getitem
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, ValidationInfo, create_model, field_validator
from pydantic_core import PydanticCustomError

from framewright.catalogue.diffusion import SCALES, Diffusion, Knob
from framewright.catalogue.row import Accepted, FrameRule, InputRule, SizeRule
from framewright.params import (
    MAX_KEYFRAMES,
    MAX_REFERENCES,
    NAME,
    Params,
    RateBetween,
    Reference,
    Size,
    Slot,
    Strict,
    ui,
)

MAX_PROMPT: Final = 10_000
MAX_LORAS: Final = 4
MAX_SEED: Final = 2**63 - 1
Fields = dict[str, tuple[Any, Any]]
_ACCEPTS: Final[Mapping[Slot, Accepted]] = {
    "image": "image",
    "last_image": "image",
    "keyframes": "image",
    "video": "video",
    "mask": "video",
    "reference_images": "image",
    "pose_video": "video",
    "face_video": "video",
    "audio": "audio",
}
_MANY: Final[Mapping[Slot, int]] = {"keyframes": MAX_KEYFRAMES, "reference_images": MAX_REFERENCES}


class LoraAsked(Strict):
    """LoRA weights, uploaded or kept by the operator under a name, and how much of them."""

    asset: Reference | None = None
    name: Annotated[str, Field(pattern=NAME)] | None = Field(None, validate_default=True)
    scale: Annotated[float, Field(ge=-4, le=4)] = 1.0

    @field_validator("name")
    @classmethod
    def _either(cls, value: str | None, info: ValidationInfo) -> str | None:
        if "asset" in info.data and (value is None) == (info.data["asset"] is None):
            raise PydanticCustomError("missing" if value is None else "conflict", "say asset or name, and not both")
        return value


class LoraOfPair(LoraAsked):
    """The same for a model with two denoisers: which of them takes it, as files for one of them exist."""

    into: Literal["both", "first", "second"] = "both"


def _said(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("blank", "prompt must say something")
    return value


Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT), AfterValidator(_said)]


def _one_length(value: float | None, info: ValidationInfo) -> float | None:
    if value is not None and info.data.get("frames") is not None:
        raise PydanticCustomError("conflict", "say frames or seconds, and not both")
    return value


def diffusion_params(name: str, facts: Diffusion, size: SizeRule, frames: FrameRule) -> type[Params]:
    """The params of a diffusion model: a field for all that it can be told, and for nothing else."""
    fields: Fields = {}
    for part in (_words, _clip, _work, _extras, _file):
        part(facts, size, frames, fields)
    validators: dict[str, Callable[..., Any]] = {"one_length": field_validator("seconds")(_one_length)}
    made: type[Params] = create_model(
        "".join(part.capitalize() for part in name.replace(".", "-").split("-")) + "Params",
        __base__=Params,
        __module__=__name__,
        __validators__=validators,
        **fields,  # type: ignore[call-overload]
    )
    return made


def input_rules(facts: Diffusion) -> tuple[InputRule, ...]:
    """The slots that a model takes; one that every way of calling it needs must be there."""
    ways = [way for many in facts.slots.values() for way in many]
    taken = dict.fromkeys(slot for way in ways for slot in way.arguments())
    return tuple(
        InputRule(slot, _ACCEPTS[slot], least=int(all(slot in way.needs for way in ways)), most=_MANY.get(slot, 1))
        for slot in taken
    )


def _words(facts: Diffusion, _size: SizeRule, _frames: FrameRule, fields: Fields) -> None:
    if facts.prompt:
        read = f" The model reads about the first {facts.max_tokens} tokens." if facts.max_tokens else ""
        fields["prompt"] = (
            Prompt,
            Field(description=f"What the clip shows and how it moves.{read}", json_schema_extra=ui("words")),
        )
    if facts.negative is not None:
        fields["negative_prompt"] = (
            Annotated[str, Field(max_length=MAX_PROMPT)] | None,
            Field(
                None,
                description="What the clip must not look like; empty takes the model's own.",
                json_schema_extra=ui("words", default=facts.negative),
            ),
        )


def _clip(facts: Diffusion, size: SizeRule, frames: FrameRule, fields: Fields) -> None:
    usual = size.default or size.shaped(16, 9)
    sides = f"multiples of {size.multiple} from {size.least} to {size.most}"
    if size.only:
        sides = "one of " + ", ".join(f"{width}x{height}" for width, height in size.only)
    elif size.buckets is not None:
        sides = f"the nearest in shape of a list of about {size.buckets.base}x{size.buckets.base} pixels each"
    fields["size"] = (
        Size | None,
        Field(
            None,
            description=(
                f"Size of the clip, {sides}; empty is {usual[0]}x{usual[1]}, or of that area in the shape of the input."
            ),
            json_schema_extra=ui("clip", "px", default=f"{usual[0]}x{usual[1]}"),
        ),
    )
    counts = "any count" if frames.stride == 1 else f"{frames.stride} x n + {frames.offset}"
    fields["frames"] = (
        Annotated[int, Field(ge=1, le=frames.most)] | None,
        Field(
            None,
            description=f"Frames of the clip, {counts} up to {frames.most}; another number goes to the next one up.",
            json_schema_extra=ui("clip", "frames", default=frames.default),
        ),
    )
    fields["seconds"] = (
        Annotated[float, Field(gt=0, le=float(frames.most))] | None,
        Field(None, description="Length of the clip, instead of frames.", json_schema_extra=ui("clip", "s")),
    )
    own = int(facts.fps) if facts.fps.denominator == 1 else float(facts.fps)
    fields["fps"] = (
        Annotated[str, RateBetween(1, 60)] | None,
        Field(
            None,
            description="Frames a second; empty is the rate that the model was trained at, or that of a video given.",
            json_schema_extra=ui("clip", "frames/s", default=own),
        ),
    )


def _work(facts: Diffusion, _size: SizeRule, _frames: FrameRule, fields: Fields) -> None:
    steps = facts.steps
    if steps.least < steps.most:
        fields["steps"] = (
            int,
            Field(
                steps.default,
                ge=steps.least,
                le=steps.most,
                description="Denoise steps: more take longer and add detail.",
                json_schema_extra=ui("work"),
            ),
        )
    for name, rule in zip(SCALES, facts.guidance, strict=False):
        fields[name] = (
            float,
            Field(rule.default, ge=rule.least, le=rule.most, description=rule.says, json_schema_extra=ui("work")),
        )
    if facts.scheduler.shift is not None:
        fields["flow_shift"] = (
            Annotated[float, Field(ge=0.1, le=20)] | None,
            Field(
                None,
                description="Where along the noise the steps are spent; empty takes what suits the size.",
                json_schema_extra=ui("work"),
            ),
        )
    fields["seed"] = (
        Annotated[int, Field(ge=0, le=MAX_SEED)] | None,
        Field(
            None,
            description="Seed of the noise; empty draws one, and the job says which.",
            json_schema_extra=ui("work"),
        ),
    )


def _extras(facts: Diffusion, _size: SizeRule, _frames: FrameRule, fields: Fields) -> None:
    if facts.strength is not None:
        fields["strength"] = (
            float,
            Field(
                facts.strength.default,
                ge=0,
                le=1,
                description="How much of a video given may change: at 0 nothing, at 1 all.",
                json_schema_extra=ui("look"),
            ),
        )
    for knob in facts.knobs:
        fields[knob.name] = _knob(knob)
    if facts.lora is not None:
        kind: Any = LoraOfPair if facts.lora.second else LoraAsked
        pair = (
            " `into` says which denoiser takes it: both, the first (noisy) or the second." if facts.lora.second else ""
        )
        fields["loras"] = (
            Annotated[list[kind], Field(max_length=MAX_LORAS)] | None,
            Field(
                None,
                description=f"Up to {MAX_LORAS} LoRAs, each `asset` or `name`, and its `scale` (1).{pair}",
                json_schema_extra=ui("look"),
            ),
        )
    if facts.upscale is not None:
        fields["refine"] = (
            bool,
            Field(
                default=False,
                description="Make it smaller first, then enlarge its latents and refine them: more detail.",
                json_schema_extra=ui("work"),
            ),
        )
    if facts.caches:
        cache: Any = getitem(Literal, facts.caches)
        fields["cache"] = (
            cache | None,
            Field(
                None,
                description="Reuse of work between steps: faster, and not the same clip as without.",
                json_schema_extra=ui("work"),
            ),
        )


def _knob(knob: Knob) -> tuple[Any, Any]:
    kind, number = (int, int) if knob.whole else (float, float)
    return (
        kind,
        Field(number(knob.default), ge=knob.least, le=knob.most, description=knob.says, json_schema_extra=ui("look")),
    )


def _file(_facts: Diffusion, _size: SizeRule, _frames: FrameRule, fields: Fields) -> None:
    fields["format"] = (
        Literal["h264", "hevc", "prores", "webm", "gif", "png"],
        Field("h264", description="Format of the file; `png` is a ZIP of frames.", json_schema_extra=ui("file")),
    )
    fields["quality"] = (
        int,
        Field(65, ge=0, le=100, description="Quality of the file.", json_schema_extra=ui("file")),
    )
    fields["embed_metadata"] = (
        bool,
        Field(
            default=False,
            description="Write model, seed and params into the file as well; the job has them anyway.",
            json_schema_extra=ui("file"),
        ),
    )
