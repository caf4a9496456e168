"""`hevc`: an ordered set of images becomes one video file, with their motion as it is."""

from __future__ import annotations

from fractions import Fraction
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
    SizeRule,
    SpeedRule,
)
from framewright.params import MAX_IMAGES, Params, RateBetween, Size, ui


class EncodeParams(Params):
    fps: Annotated[str, RateBetween(Fraction(1, 60), 120)] = Field(
        "2/1",
        description='Images a second: a number or "num/den".',
        json_schema_extra=ui("clip", "frames/s", default=2),
    )
    size: Size | None = Field(
        None, description="Size of the clip; empty is that of the images.", json_schema_extra=ui("clip", "px")
    )
    fit: Literal["pad", "crop", "stretch"] | None = Field(
        None,
        description="How images of another size go in; without it, images of mixed sizes are refused.",
        json_schema_extra=ui("clip"),
    )
    background: str = Field(
        "#000000",
        pattern=r"^#[0-9a-fA-F]{6}$",
        description="Colour behind padding and transparency, `#rrggbb`.",
        json_schema_extra=ui("clip"),
    )
    quality: int = Field(65, ge=0, le=100, description="Quality of the file.", json_schema_extra=ui("file"))
    codec: Literal["hevc", "h264", "any"] = Field(
        "hevc",
        description="Codec of the file; `any` takes the best the worker has.",
        json_schema_extra=ui("file"),
    )
    on_error: Literal["fail", "skip"] = Field(
        "fail",
        description="Whether an image that cannot be decoded fails the job or is left out.",
        json_schema_extra=ui("file"),
    )
    chunk_seconds: float | None = Field(
        None,
        ge=1,
        le=3600,
        description="Length of one file; this version writes a single file and says so in `adjusted`.",
        json_schema_extra=ui("file", "s"),
    )


ROW = ModelRow(
    name="hevc",
    title="Images to video",
    summary=(
        "Encodes images, in the order given, to one MP4 (HEVC tagged hvc1, or H.264; BT.709). It keeps what the images "
        "show and invents no motion between them."
    ),
    licence=Licence("Apache-2.0", note="Part of Framewright; the encoder is the worker's ffmpeg."),
    kinds=("encode",),
    default_for=("encode",),
    engine="encode",
    queue="encode",
    asks=lambda: EncodeParams,
    inputs=(InputRule("images", "image", least=1, most=MAX_IMAGES),),
    size=SizeRule("images", least=16, most=8192),
    frames=FrameRule("images", most=MAX_IMAGES),
    max_pixel_frames=100_000_000_000,
    speed=SpeedRule(typical_mpix_s=20.0, floor_mpix_s=2.0),
    provenance=Provenance(
        "c2pa.transcoded",
        None,
        "The images given became a video, in their order; no motion was invented.",
        otherwise=DigitalSource.COMPOSITE,
    ),
    not_yet=MappingProxyType({"chunk_seconds": "this version writes the whole clip as one file"}),
    presets=(
        Preset("archive", "Archive", MappingProxyType({"quality": 85})),
        Preset("plays-anywhere", "Plays anywhere", MappingProxyType({"codec": "h264", "quality": 70})),
    ),
)
