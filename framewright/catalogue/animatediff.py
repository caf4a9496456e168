"""AnimateDiff: a motion adapter on Stable Diffusion 1.5."""

from __future__ import annotations

from fractions import Fraction
from types import MappingProxyType

from framewright.catalogue.computing import UNet
from framewright.catalogue.diffusion import (
    NOTHING,
    VARIANTS,
    VIDEO,
    Diffusion,
    Guidance,
    Latents,
    Lora,
    Scheduler,
    Steps,
    Strength,
)
from framewright.catalogue.licences import CREATIVE_ML
from framewright.catalogue.offering import offer, parts, presets, whole
from framewright.catalogue.pins import pinned
from framewright.catalogue.row import FrameRule, SizeRule

# The original weights, kept by the community since their makers took them down: the licence is one known text with
# nothing added, where merged fine-tunes name none or several, and every component is there as safetensors.
BASE = pinned("stable-diffusion-v1-5/stable-diffusion-v1-5", without=(*VARIANTS, "safety_checker/*"))

ROW = offer(
    "animatediff-sd-1.5",
    "AnimateDiff on Stable Diffusion 1.5",
    "Two seconds at 8 frames a second on a small GPU, in every style that a LoRA for Stable Diffusion 1.5 gives: that "
    "choice is what it is for. Motion is simple, and the plain base model is dated; add a LoRA.",
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
        repo=pinned(
            "guoyww/animatediff-motion-adapter-v1-5-3", files=("config.json", "diffusion_pytorch_model.safetensors")
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
        denoiser=UNet(per_pixel=239e6, per_pair=7500),
        lora=Lora(mixin="StableDiffusionLoraLoaderMixin"),
        profiles=(whole(10_000, tiling=True), parts(8_000)),
    ),
)
ROWS = (ROW,)
