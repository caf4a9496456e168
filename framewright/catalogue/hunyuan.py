"""HunyuanVideo: 13B, from text or a picture. Its licence grants nothing in the EU, the UK and South Korea."""

from __future__ import annotations

from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final

from framewright.catalogue.computing import Transformer
from framewright.catalogue.diffusion import (
    IMAGE,
    NOTHING,
    Diffusion,
    Guidance,
    Latents,
    Lora,
    Scheduler,
    Steps,
)
from framewright.catalogue.licences import HUNYUAN
from framewright.catalogue.offering import offer, parts, presets, whole
from framewright.catalogue.pins import pinned
from framewright.catalogue.row import FrameRule, ModelRow, SizeRule

SIZE: Final = SizeRule("model", multiple=16, least=256, most=1280, default=(960, 544), max_area=1280 * 720)
LARGE: Final = SizeRule("model", multiple=16, least=256, most=1280, default=(1280, 720), max_area=1280 * 720)
FRAMES: Final = FrameRule("params", stride=4, offset=1, least=5, default=129, most=129)


def euler(*shifts: tuple[int, float]) -> Scheduler:
    return Scheduler(kind="FlowMatchEulerDiscreteScheduler", shift="shift", shifts=shifts)


def hunyuan(**facts: Any) -> Diffusion:
    """What all of them have in common, and what one of them has of its own."""
    common: dict[str, Any] = {
        "family": "hunyuan",
        "fps": Fraction(24),
        "max_tokens": 256,
        "scheduler": euler((0, 7.0)),
        "steps": Steps(default=50),
        "guidance": (Guidance(argument="guidance_scale", default=6.0),),
        "dtypes": MappingProxyType({"default": "float16", "transformer": "bfloat16"}),
        "latents": Latents(layout="bcfhw", channels=16, spatial=8, temporal=4),
        "denoiser": Transformer(parameters=6.8e9, layers=60, width=3072, text=256),
        "guided": False,
        "lora": Lora(mixin="HunyuanVideoLoraLoaderMixin"),
    }
    return Diffusion(**{**common, **facts})


T2V = offer(
    "hunyuan-video",
    "HunyuanVideo",
    "Cinematic clips of 5 seconds with steady people and cameras. The guidance is built in, so there is no negative "
    "prompt and no second pass. Slow, and large: a smaller GPU holds it only with 8-bit weights.",
    licence=HUNYUAN,
    size=SIZE,
    frames=FRAMES,
    typical_mpix_s=0.06,
    presets=presets(
        {"steps": 20, "cache": "first-block"}, {"steps": 30, "cache": "first-block"}, {"steps": 50, "size": "1280x720"}
    ),
    facts=hunyuan(
        pipelines=MappingProxyType({"t2v": "HunyuanVideoPipeline"}),
        slots=MappingProxyType({"t2v": NOTHING}),
        load_as="t2v",
        repo=pinned("hunyuanvideo-community/HunyuanVideo"),
        scheduler=euler((0, 5.0), (544, 7.0)),
        caches=("first-block", "taylor-lite", "pyramid"),
        profiles=(whole(60_000, tiling=True), parts(45_000), parts(24_000, fp8=True)),
    ),
)


def _from_image(name: str, title: str, summary: str, **facts: Any) -> ModelRow:
    frames = facts.pop("frames")
    return offer(
        name,
        title,
        summary,
        licence=HUNYUAN,
        size=LARGE,
        frames=frames,
        typical_mpix_s=0.06,
        presets=presets({"steps": 20}, {"steps": 30}, {"steps": 50}),
        facts=hunyuan(
            pipelines=MappingProxyType({"i2v": "HunyuanVideoImageToVideoPipeline"}),
            slots=MappingProxyType({"i2v": IMAGE}),
            load_as="i2v",
            # The pipeline never opens the context that the other two need.
            caches=("pyramid",),
            profiles=(whole(80_000, tiling=True), parts(60_000), parts(24_000, fp8=True)),
            **facts,
        ),
    )


I2V = _from_image(
    "hunyuan-video-i2v",
    "HunyuanVideo image to video",
    "From a picture, which stays exactly the first frame; motion is calmer than in the 33-channel checkpoint.",
    repo=pinned("hunyuanvideo-community/HunyuanVideo-I2V"),
    frames=FRAMES,
)
I2V_33CH = _from_image(
    "hunyuan-video-i2v-33ch",
    "HunyuanVideo image to video, 33 channels",
    "From a picture, with more motion than the other checkpoint and less likeness. Its first four frames are dropped "
    "by the pipeline, so the longest clip has 125.",
    repo=pinned("hunyuanvideo-community/HunyuanVideo-I2V-33ch"),
    frames=FrameRule("params", stride=4, offset=1, least=5, default=125, most=125),
    guidance=(Guidance(argument="guidance_scale", default=1.0),),
    dropped=4,
)
ROWS = (T2V, I2V, I2V_33CH)
