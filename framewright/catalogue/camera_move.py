"""`camera-move`: a virtual camera over one still picture. Arithmetic, not a network."""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field

from framewright.catalogue.row import (
    DigitalSource,
    FrameRule,
    InputRule,
    Licence,
    ModelRow,
    Preset,
    Provenance,
    SeedRule,
    SizeRule,
    SpeedRule,
)
from framewright.params import Params, RateBetween, Size, ui

Move = Literal[
    "zoom-in",
    "zoom-out",
    "pan-left",
    "pan-right",
    "tilt-up",
    "tilt-down",
    "orbit-left",
    "orbit-right",
    "dolly-in",
    "dolly-out",
    "handheld",
]


class CameraMoveParams(Params):
    move: Move = Field("zoom-in", description="How the camera moves.", json_schema_extra=ui("motion"))
    seconds: float = Field(4.0, ge=0.1, le=60, description="Length of the clip.", json_schema_extra=ui("clip", "s"))
    fps: Annotated[str, RateBetween(1, 60)] = Field(
        "24/1",
        description='Frames a second: a number or "num/den".',
        json_schema_extra=ui("clip", "frames/s", default=24),
    )
    size: Size | None = Field(
        None,
        description="Size of the clip; empty is the picture's own, its long edge at most 1280.",
        json_schema_extra=ui("clip", "px"),
    )
    easing: Literal["linear", "ease-in", "ease-out", "ease-in-out"] = Field(
        "ease-in-out", description="How the move starts and ends.", json_schema_extra=ui("motion")
    )
    strength: float = Field(0.3, ge=0, le=1, description="How far the camera goes.", json_schema_extra=ui("motion"))
    seed: int | None = Field(
        None,
        ge=0,
        le=2**32 - 1,
        description="Seed of `handheld`; empty draws one, and the job says which.",
        json_schema_extra=ui("motion"),
    )
    fit: Literal["crop", "pad"] = Field(
        "crop",
        description="What to do with a picture of another shape than the clip.",
        json_schema_extra=ui("clip"),
    )
    quality: int = Field(65, ge=0, le=100, description="Quality of the file.", json_schema_extra=ui("file"))
    codec: Literal["hevc", "h264"] = Field("hevc", description="Codec of the file.", json_schema_extra=ui("file"))


ROW = ModelRow(
    name="camera-move",
    title="Camera move",
    summary=(
        "Moves a virtual camera over one still picture: zoom, pan, tilt, orbit, dolly or handheld. It needs no GPU and "
        "no weights. It invents nothing: people do not walk and water does not flow, only the view changes, and an "
        "orbit is a change of perspective on a flat picture, not of the scene in it."
    ),
    licence=Licence("Apache-2.0", note="Part of Framewright; the clip is yours as far as the picture is."),
    kinds=("animate",),
    default_for=("animate",),
    engine="camera-move",
    queue="cpu",
    asks=lambda: CameraMoveParams,
    inputs=(InputRule("image", "image"),),
    size=SizeRule("picture", least=32, most=4096, long_edge=1280),
    frames=FrameRule("seconds", most=3600),
    max_pixel_frames=8_000_000_000,
    speed=SpeedRule(typical_mpix_s=20.0, floor_mpix_s=1.0),
    provenance=Provenance(
        "c2pa.edited", DigitalSource.ALTERED, "A virtual camera moved over the picture; no trained model took part."
    ),
    seed=SeedRule(MappingProxyType({"move": frozenset({"handheld"})})),
    presets=(
        Preset("draft", "Draft", MappingProxyType({"fps": 12, "quality": 50})),
        Preset("smooth", "Smooth", MappingProxyType({"fps": 60})),
        Preset("plays-anywhere", "Plays anywhere", MappingProxyType({"codec": "h264", "quality": 70})),
    ),
)
