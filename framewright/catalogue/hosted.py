"""Models that only their makers run: listed, so that nobody looks for their weights, and refused."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from framewright.catalogue.asking import Prompt
from framewright.catalogue.offering import MADE
from framewright.catalogue.row import FrameRule, Licence, ModelRow, SizeRule, SpeedRule
from framewright.params import Params, RateBetween, Size, ui

REMOTE: Final = "remote"
"""The engine of models that run elsewhere. No worker has it."""


class HostedParams(Params):
    prompt: Prompt = Field(description="What the clip shows and how it moves.", json_schema_extra=ui("words"))
    size: Size = Field("1280x720", description="Size of the clip.", json_schema_extra=ui("clip", "px"))
    seconds: float = Field(5.0, ge=1, le=15, description="Length of the clip.", json_schema_extra=ui("clip", "s"))
    fps: Annotated[str, RateBetween(1, 60)] = Field(
        "24/1", description="Frames a second.", json_schema_extra=ui("clip", "frames/s", default=24)
    )


WAN_2_6 = ModelRow(
    name="wan-2.6",
    title="Wan 2.6 (hosted)",
    summary=(
        "Only its maker's paid service runs it: there are no weights to download, whatever pages say. It is listed for "
        "those who look for it here; the open models of the family go up to 2.2."
    ),
    licence=Licence(
        "Alibaba Cloud terms of service",
        url="https://www.alibabacloud.com/help/en/model-studio/",
        note="A paid service: prompts and pictures leave your network.",
        accept=True,
    ),
    kinds=("generate",),
    engine=REMOTE,
    queue="gpu",
    asks=lambda: HostedParams,
    inputs=(),
    size=SizeRule("params", multiple=16, least=256, most=1920),
    frames=FrameRule("seconds", most=900),
    max_pixel_frames=1920 * 1088 * 900,
    speed=SpeedRule(typical_mpix_s=1.0, floor_mpix_s=0.05),
    provenance=MADE,
    elsewhere="its weights are not published, and no worker here calls its maker's service; take wan-2.2-t2v-a14b",
)
ROWS = (WAN_2_6,)
