"""AnimateDiff: a motion adapter on Stable Diffusion 1.5."""

from __future__ import annotations

from fractions import Fraction
from types import MappingProxyType

from framewright.catalogue.diffusion import (
    NOTHING,
    VIDEO,
    Diffusion,
    Guidance,
    Latents,
    Lora,
    Repo,
    Scheduler,
    Steps,
    Strength,
)
from framewright.catalogue.licences import CREATIVE_ML
from framewright.catalogue.offering import offer, parts, presets, whole
from framewright.catalogue.row import FrameRule, SizeRule

# The original weights, kept by the community since their makers took them down: the licence is one known text with
# nothing added, where merged fine-tunes name none or several, and every component is there as safetensors.
BASE = Repo(id="stable-diffusion-v1-5/stable-diffusion-v1-5", revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14")

ROW = offer(
    "animatediff-sd-1.5",
    "AnimateDiff on Stable Diffusion 1.5",
    "Two seconds at 8 frames a second on 8 GB, in every style that a LoRA for Stable Diffusion 1.5 gives: that choice "
    "is what it is for. Motion is simple, and the plain base model is dated; add a LoRA.",
    licence=CREATIVE_ML,
    size=SizeRule("model", multiple=8, least=256, most=1024, default=(512, 512), max_area=768 * 768),
    # The adapter knows 32 places in time, and was trained with 16.
    frames=FrameRule("params", least=8, default=16, most=32),
    typical_mpix_s=0.28,
    presets=presets({"steps": 12}, {"steps": 20}, {"steps": 40}),
    facts=Diffusion(
        family="animatediff",
        pipelines=MappingProxyType({"t2v": "AnimateDiffPipeline", "v2v": "AnimateDiffVideoToVideoPipeline"}),
        slots=MappingProxyType({"t2v": NOTHING, "v2v": VIDEO}),
        load_as="t2v",
        repo=Repo(
            id="guoyww/animatediff-motion-adapter-v1-5-3", files=("config.json", "diffusion_pytorch_model.safetensors")
        ),
        base=BASE,
        fps=Fraction(8),
        steps=Steps(default=25),
        guidance=(Guidance(argument="guidance_scale", default=7.5),),
        strength=Strength(argument="strength", default=0.8),
        negative="bad quality, worst quality, blurry",
        scheduler=Scheduler(
            kind="DDIMScheduler",
            overrides=MappingProxyType(
                {
                    "beta_schedule": "linear",
                    "clip_sample": False,
                    "steps_offset": 1,
                    "timestep_spacing": "linspace",
                }
            ),
        ),
        dtypes=MappingProxyType({"default": "float16"}),
        latents=Latents(layout="bcfhw", channels=4, spatial=8, temporal=1),
        lora=Lora(mixin="StableDiffusionLoraLoaderMixin"),
        profiles=(whole(10_000, tiling=True), parts(8_000)),
    ),
)
ROWS = (ROW,)
