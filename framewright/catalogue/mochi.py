"""Mochi 1: 10B, Apache-2.0, photographic motion at 30 frames a second."""

from __future__ import annotations

from fractions import Fraction
from types import MappingProxyType

from framewright.catalogue.computing import Transformer
from framewright.catalogue.diffusion import NOTHING, Diffusion, Guidance, Latents, Lora, Scheduler, Steps
from framewright.catalogue.licences import APACHE
from framewright.catalogue.offering import offer, parts, presets, whole
from framewright.catalogue.pins import pinned
from framewright.catalogue.row import FrameRule, SizeRule

ROW = offer(
    "mochi-1",
    "Mochi 1",
    "Smooth, photographic motion at 30 frames a second that follows the prompt closely, free for every use. 480p only; "
    "drawn and animated styles come out poorly, and long clips take a lot of memory to decode.",
    licence=APACHE,
    size=SizeRule("model", multiple=16, least=256, most=848, default=(848, 480), max_area=848 * 480),
    frames=FrameRule("params", stride=6, offset=1, least=7, default=85, most=163),
    typical_mpix_s=0.06,
    presets=presets({"steps": 25, "cache": "first-block"}, {"steps": 40, "cache": "first-block"}, {"steps": 64}),
    facts=Diffusion(
        family="mochi",
        pipelines=MappingProxyType({"t2v": "MochiPipeline"}),
        slots=MappingProxyType({"t2v": NOTHING}),
        load_as="t2v",
        repo=pinned("genmo/mochi-1-preview"),
        fps=Fraction(30),
        steps=Steps(default=64),
        guidance=(Guidance(argument="guidance_scale", default=4.5),),
        max_tokens=256,
        negative="",
        scheduler=Scheduler(
            kind="FlowMatchEulerDiscreteScheduler", overrides=MappingProxyType({"invert_sigmas": True})
        ),
        latents=Latents(layout="bcfhw", channels=12, spatial=8, temporal=6),
        denoiser=Transformer(parameters=5.44e9, layers=48, width=3072, text=256),
        caches=("first-block", "taylor-lite", "pyramid"),
        lora=Lora(mixin="Mochi1LoraLoaderMixin"),
        profiles=(whole(48_000, tiling=True), parts(22_000)),
    ),
)
ROWS = (ROW,)
