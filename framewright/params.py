"""What a request may say: strict pydantic models, the field types rows share, and errors as JSON pointers. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from framewright.errors import FieldError
from framewright.wording import form, worded

KINDS = ("generate", "animate", "enhance", "encode", "avatar", "pipeline")
PIPELINE = "pipeline"
MAX_STEPS = 16
MAX_IMAGES = 10_000
MAX_PROBLEMS = 20
MAX_KEYFRAMES = 16
MAX_REFERENCES = 8
Slot = Literal[
    "image",
    "last_image",
    "keyframes",
    "images",
    "video",
    "mask",
    "reference_images",
    "pose_video",
    "face_video",
    "audio",
]
LISTS: frozenset[str] = frozenset({"images", "keyframes", "reference_images"})
"""The slots that take several."""
NAME = form(r"^[a-z][a-z0-9_-]{0,31}$", "a small letter and then at most 31 of a-z, 0-9, _ and -")
WEB = form(r"^https?://[^\s/?#]+[^\s]*$", "an http:// or https:// URL")

_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_RATIO = re.compile(r"([1-9][0-9]{0,6})/([1-9][0-9]{0,6})")
_RATIO_CAP = 1_000_000
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")


class Strict(BaseModel):
    """Unknown fields, coerced types, NaN and infinities are errors, and no error repeats what was sent."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class Params(Strict):
    """Base of the `params` of every catalogue row; field order is the order on a page."""


def ui(group: str, unit: str | None = None, **schema: Any) -> dict[str, Any]:
    """The JSON Schema hints of one field: the group it is shown in and the unit behind its number."""
    return {"x-group": group, **({"x-unit": unit} if unit else {}), **schema}


def ratio_text(value: Fraction) -> str:
    """Exact text of a rate, always with a denominator: `24/1`, `30000/1001`."""
    return f"{value.numerator}/{value.denominator}"


def parse_size(text: str) -> tuple[int, int]:
    """Width and height in pixels behind `WxH`."""
    width, height = text.split("x")
    return int(width), int(height)


class SizeText:
    """Marks a `"WxH"` string (pixels). Which sizes a model makes is a rule of its row."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> JsonSchemaValue:
        return {"type": "string", "pattern": f"^{_SIZE.pattern}$", "examples": ["1280x720"]}

    def _check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise PydanticCustomError("string_type", "this must be text")
        if not _SIZE.fullmatch(value):
            raise PydanticCustomError("wrong_format", "write the size as WIDTHxHEIGHT in pixels, such as 1280x720")
        return value


class RateBetween:
    """Marks a rate in frames a second: a whole number, a decimal or `"num/den"`; kept exactly, as `"num/den"`.

    A decimal means what it says (29.97 is 2997/100, not NTSC's 30000/1001).
    """

    def __init__(self, lowest: Fraction | int, highest: Fraction | int) -> None:
        self.lowest, self.highest = Fraction(lowest), Fraction(highest)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> JsonSchemaValue:
        number = {"type": "number", "minimum": float(self.lowest), "maximum": float(self.highest)}
        return {"anyOf": [number, {"type": "string", "pattern": f"^{_RATIO.pattern}$", "examples": ["30000/1001"]}]}

    def _check(self, value: Any) -> str:
        rate = _ratio(value)
        if not self.lowest <= rate <= self.highest:
            raise PydanticCustomError(
                "out_of_range",
                "frames a second go from {lowest} to {highest}",
                {"lowest": str(self.lowest), "highest": str(self.highest)},
            )
        if max(rate.numerator, rate.denominator) > _RATIO_CAP:
            raise PydanticCustomError(
                "wrong_format", 'too many digits; write the rate as "num/den", such as "30000/1001"'
            )
        return ratio_text(rate)


def _ratio(value: Any) -> Fraction:
    if isinstance(value, str) and (found := _RATIO.fullmatch(value)):
        return Fraction(int(found[1]), int(found[2]))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticCustomError("wrong_format", 'write the rate as a number or as "num/den", such as "30000/1001"')
    if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - NaN is the value unlike itself
        raise PydanticCustomError("finite_number", "this must be a finite number")
    return decimal(value)


def decimal(value: float) -> Fraction:
    """The number as it was written: 0.1 is one tenth, not the binary neighbour a float keeps."""
    return Fraction(repr(value))


def _moment(value: Any) -> Any:
    if value is None or isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise PydanticCustomError(
            "wrong_format", "write the time as RFC 3339 with its offset, such as 2026-01-31T12:00:00Z"
        )
    try:
        moment = datetime.fromisoformat(value.upper())
    except ValueError:
        raise PydanticCustomError("wrong_format", "there is no such date or time") from None
    if not 1970 <= moment.year <= 9998:  # what is left converts to any time zone
        raise PydanticCustomError("out_of_range", "years go from 1970 to 9998")
    # Postgres knows fewer offsets than RFC 3339 does.
    return moment.astimezone(UTC)


Size = Annotated[str, SizeText()]
Moment = Annotated[
    datetime, BeforeValidator(_moment), WithJsonSchema({"type": "string", "format": "date-time"})
]  # RFC 3339 with an offset
Reference = Annotated[str, Field(min_length=1, max_length=64)]  # an asset's id, or "@name" inside a pipeline
StepName = Annotated[str, Field(pattern=NAME)]


class Keyframe(Strict):
    """A picture that the clip shows at a frame: 0 is the first, -1 the last."""

    image: Reference
    frame: Annotated[int, Field(ge=-1, le=100_000)]
    strength: Annotated[float, Field(ge=0, le=1, description="1 keeps it as it is, less leaves room.")] = 1.0


class Input(Strict):
    """What the job works on: asset ids, or `"@name"` for the output of another step of the pipeline."""

    image: Reference | None = None
    last_image: Reference | None = None
    keyframes: Annotated[list[Keyframe], Field(max_length=MAX_KEYFRAMES)] | None = None
    images: Annotated[list[Reference], Field(max_length=MAX_IMAGES)] | None = None
    video: Reference | None = None
    mask: Reference | None = None
    reference_images: Annotated[list[Reference], Field(max_length=MAX_REFERENCES)] | None = None
    pose_video: Reference | None = None
    face_video: Reference | None = None
    audio: Reference | None = None

    def slots(self) -> dict[str, list[tuple[str, str]]]:
        """The slots that were given: name -> pairs of (pointer below `input`, reference)."""
        given = {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}
        return {
            name: [(f"/{name}/{index}", ref) for index, ref in enumerate(value)]
            if name in LISTS and name != "keyframes"
            else [(f"/{name}/{index}/image", one.image) for index, one in enumerate(value)]
            if name == "keyframes"
            else [(f"/{name}", value)]
            for name, value in given.items()
        }


class Output(Strict):
    """Room for choices about the output; no kind knows one yet, so only an empty object is accepted."""


Kind = Annotated[str, Field(max_length=32, description="One of: " + ", ".join(KINDS) + ".")]
Model = Annotated[str, Field(max_length=64, description="Name of a catalogue row; empty takes the kind's default.")]
Preset = Annotated[str, Field(max_length=64, description="Name of a preset of the model; params win over it.")]
Timeout = Annotated[
    float, Field(ge=1, le=86_400, description="Seconds one attempt may take.", json_schema_extra={"x-unit": "s"})
]
MaxAttempts = Annotated[
    int, Field(ge=1, le=10, description="Attempts that may end in an error of the work itself; lost workers are free.")
]
Text = Annotated[str, Field(max_length=512)]


class StepRequest(Strict):
    """One step of a pipeline."""

    name: StepName
    kind: Kind
    model: Model | None = None
    input: Input = Input()
    params: dict[str, Any] = {}
    preset: Preset | None = None
    after: Annotated[list[StepName], Field(max_length=MAX_STEPS)] = []
    timeout: Timeout | None = None
    max_attempts: MaxAttempts | None = None


class JobRequest(Strict):
    """The body of `POST /jobs`. What `params` may hold is the matter of the catalogue row, checked by `plan`."""

    kind: Kind
    model: Model | None = None
    input: Input = Input()
    params: dict[str, Any] = {}
    output: Output = Output()
    preset: Preset | None = None
    steps: Annotated[list[StepRequest], Field(min_length=1, max_length=MAX_STEPS)] | None = None
    priority: Annotated[int, Field(ge=-100, le=100, description="Higher goes first.")] = 0
    run_at: Moment | None = None
    start_deadline: Moment | None = None
    timeout: Timeout | None = None
    max_attempts: MaxAttempts | None = None
    webhook: Annotated[str, Field(max_length=2048, pattern=WEB)] | None = None
    metadata: Annotated[dict[Annotated[str, Field(min_length=1, max_length=64)], Text], Field(max_length=16)] = {}

    @field_validator("start_deadline")
    @classmethod
    def _after_the_start(cls, value: datetime | None, info: ValidationInfo) -> datetime | None:
        run_at = info.data.get("run_at")
        if value is not None and run_at is not None and value <= run_at:
            raise PydanticCustomError("out_of_range", "the deadline to start must be later than run_at")
        return value


def pointer(*parts: object) -> str:
    """An RFC 6901 pointer. A part that a client chose is cut to 64 printable characters, so it can be repeated."""
    return "".join(f"/{_part(part)}" for part in parts)


def _part(part: object) -> str:
    text = str(part)
    shown = "".join(c if c.isprintable() else "?" for c in text[:64]) + ("…" if len(text) > 64 else "")
    return shown.replace("~", "~0").replace("/", "~1")


def fields_of(errors: Sequence[ErrorDetails], *, at: str = "") -> tuple[FieldError, ...]:
    """At most 20 wrong fields of a validation, below the pointer `at`; no text of the request but field names."""
    found = []
    for error in errors[:MAX_PROBLEMS]:
        place = _place(error)
        code, sentence = worded(place, error["type"], error.get("ctx", {}), error["msg"])
        found.append(FieldError(at + pointer(*place), code, sentence))
    return tuple(found)


def _place(error: ErrorDetails) -> tuple[int | str, ...]:
    """Where it is wrong. pydantic marks a wrong *name* in a mapping by `[key]` after that name."""
    *place, last = error["loc"] or ("",)
    of_name = last == "[key]" and len(place) > 1 and error["type"] != "extra_forbidden"
    return tuple(place) if of_name or not error["loc"] else error["loc"]


def validation_fields(error: ValidationError, *, at: str = "") -> tuple[FieldError, ...]:
    """The wrong fields behind a pydantic error, as JSON pointers and sentences without the values."""
    return fields_of(error.errors(include_url=False, include_input=False), at=at)


def params_schema(model: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema of a row's params with `x-order` by declaration, so a page can be built from it alone."""
    schema = model.model_json_schema()
    for order, field in enumerate(schema.get("properties", {}).values(), start=1):
        field["x-order"] = order
        field.setdefault("x-group", "more")
    return schema
