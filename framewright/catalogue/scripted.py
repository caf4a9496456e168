"""`scripted`: frames that say who made them, and misbehaviour on request. For tests; an operator has to turn it on."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from framewright.catalogue.row import (
    DigitalSource,
    FrameRule,
    InputRule,
    Licence,
    ModelRow,
    Provenance,
    SizeRule,
    SpeedRule,
)
from framewright.params import Params, RateBetween, Size, ui

_AT = "The step (from 1) at which it happens, on attempts up to `until_attempt`."


class ScriptedParams(Params):
    frames: int = Field(24, ge=1, le=2000, description="Frames of the clip.", json_schema_extra=ui("clip"))
    fps: Annotated[str, RateBetween(1, 120)] = Field(
        "24/1", description="Frames a second.", json_schema_extra=ui("clip", "frames/s", default=24)
    )
    size: Size = Field("320x192", description="Size of the clip.", json_schema_extra=ui("clip", "px"))
    steps: int = Field(4, ge=1, le=10_000, description="Steps that are reported.", json_schema_extra=ui("work"))
    step_ms: float = Field(
        0, ge=0, le=600_000, description="How long a step takes.", json_schema_extra=ui("work", "ms")
    )
    preview_every: int = Field(0, ge=0, description="A preview every so many steps.", json_schema_extra=ui("work"))
    checkpoint_kb: int = Field(
        0, ge=0, le=1024, description="Size of the file that a checkpoint carries.", json_schema_extra=ui("work", "KiB")
    )
    until_attempt: int = Field(
        1, ge=1, le=100, description="Last attempt that misbehaves.", json_schema_extra=ui("misbehaviour")
    )
    crash_at: int | None = Field(
        None, ge=1, description=f"The runner dies. {_AT}", json_schema_extra=ui("misbehaviour")
    )
    hang_at: int | None = Field(None, ge=1, description=f"The work hangs. {_AT}", json_schema_extra=ui("misbehaviour"))
    oom_at: int | None = Field(None, ge=1, description=f"Memory runs out. {_AT}", json_schema_extra=ui("misbehaviour"))
    raise_at: int | None = Field(None, ge=1, description=f"An error. {_AT}", json_schema_extra=ui("misbehaviour"))
    unfit_at: int | None = Field(
        None, ge=1, description=f"The worker lacks the weights. {_AT}", json_schema_extra=ui("misbehaviour")
    )
    stubborn: bool = Field(
        default=False, description="Does not listen when told to stop.", json_schema_extra=ui("misbehaviour")
    )
    no_progress: bool = Field(default=False, description="Reports nothing.", json_schema_extra=ui("misbehaviour"))
    garbage: bool = Field(
        default=False, description="Writes a file that is no video.", json_schema_extra=ui("misbehaviour")
    )


ROW = ModelRow(
    name="scripted",
    title="Scripted (tests)",
    summary="Frames that carry job, step, attempt and index in their pixels, and failures on request.",
    licence=Licence("Apache-2.0"),
    kinds=("animate",),
    engine="scripted",
    queue="cpu",
    asks=lambda: ScriptedParams,
    inputs=(InputRule("image", "image", least=0), InputRule("video", "video", least=0)),
    size=SizeRule("params", least=64, most=1920),
    frames=FrameRule("params", most=2000),
    max_pixel_frames=1_000_000_000,
    speed=SpeedRule(typical_mpix_s=20.0, floor_mpix_s=1.0),
    provenance=Provenance(
        "c2pa.edited", DigitalSource.ALTERED, "Frames drawn by a test.", otherwise=DigitalSource.ALGORITHMIC
    ),
    test_only=True,
)
