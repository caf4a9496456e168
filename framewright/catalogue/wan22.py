"""Wan 2.2: a pair of denoisers for the noisy and the clean half, a 5B model with a denser VAE, and Animate."""

from __future__ import annotations

from fractions import Fraction
from types import MappingProxyType
from typing import Final

from framewright.catalogue.computing import Transformer
from framewright.catalogue.diffusion import (
    FIRST_LAST,
    IMAGE,
    NOTHING,
    Guidance,
    Latents,
    Lora,
    Slots,
    Steps,
)
from framewright.catalogue.licences import APACHE
from framewright.catalogue.offering import offer, parts, presets, whole
from framewright.catalogue.pins import pinned
from framewright.catalogue.row import FrameRule, SizeRule
from framewright.catalogue.wan import BRISK, FRAMES, LARGE, PAIR, SEEING, SMALL, THRIFTY, unipc, wan

FIVE_B: Final = SizeRule("model", multiple=32, least=256, most=1280, default=(1280, 704), max_area=1280 * 736)

T2V_A14B = offer(
    "wan-2.2-t2v-a14b",
    "Wan 2.2 text to video A14B",
    "The best motion and light of the free models. Two 14B denoisers take turns, so it wants a large GPU, or "
    "8-bit weights that come and go.",
    licence=APACHE,
    size=SMALL,
    frames=FRAMES,
    typical_mpix_s=0.025,
    presets=presets(dict(THRIFTY), dict(BRISK), {"steps": 40, "size": "1280x720"}),
    facts=wan(
        pipelines=MappingProxyType({"t2v": "WanPipeline"}),
        slots=MappingProxyType({"t2v": NOTHING}),
        load_as="t2v",
        repo=pinned("Wan-AI/Wan2.2-T2V-A14B-Diffusers"),
        steps=Steps(default=40),
        guidance=(
            Guidance(argument="guidance_scale", default=4.0),
            Guidance(argument="guidance_scale_2", default=3.0, says=PAIR),
        ),
        scheduler=unipc((0, 12.0)),
        lora=Lora(mixin="WanLoraLoaderMixin", second=True),
        profiles=(whole(80_000), parts(48_000), parts(24_000, fp8=True)),
    ),
)
I2V_A14B = offer(
    "wan-2.2-i2v-a14b",
    "Wan 2.2 image to video A14B",
    "From a picture, or from a first and a last one, with the motion of the A14B pair. As heavy as its text model.",
    licence=APACHE,
    size=SMALL,
    frames=FRAMES,
    typical_mpix_s=0.025,
    presets=presets(dict(THRIFTY), dict(BRISK), {"steps": 40}),
    facts=wan(
        pipelines=MappingProxyType({"i2v": "WanImageToVideoPipeline", "first-last": "WanImageToVideoPipeline"}),
        slots=MappingProxyType({"i2v": IMAGE, "first-last": FIRST_LAST}),
        load_as="i2v",
        repo=pinned("Wan-AI/Wan2.2-I2V-A14B-Diffusers"),
        steps=Steps(default=40),
        guidance=(
            Guidance(argument="guidance_scale", default=3.5),
            Guidance(argument="guidance_scale_2", default=3.5, says=PAIR),
        ),
        scheduler=unipc((0, 5.0)),
        lora=Lora(mixin="WanLoraLoaderMixin", second=True),
        profiles=(whole(80_000), parts(48_000), parts(24_000, fp8=True)),
    ),
)
TI2V_5B = offer(
    "wan-2.2-ti2v-5b",
    "Wan 2.2 text and image to video 5B",
    "720p at 24 frames a second on one middling GPU, from text or a picture. Its VAE packs four times as much into a "
    "latent, which is what makes it quick and its fine detail softer.",
    licence=APACHE,
    size=FIVE_B,
    frames=FrameRule("params", stride=4, offset=1, least=5, default=121, most=121),
    typical_mpix_s=0.2,
    presets=presets(dict(THRIFTY), dict(BRISK), {"steps": 50}),
    facts=wan(
        pipelines=MappingProxyType({"t2v": "WanPipeline", "i2v": "WanImageToVideoPipeline"}),
        slots=MappingProxyType({"t2v": NOTHING, "i2v": IMAGE}),
        load_as="t2v",
        repo=pinned("Wan-AI/Wan2.2-TI2V-5B-Diffusers"),
        fps=Fraction(24),
        scheduler=unipc((0, 5.0)),
        latents=Latents(layout="bcfhw", channels=48, spatial=16, temporal=4),
        denoiser=Transformer(parameters=4.35e9, layers=30, width=3072),
        profiles=(whole(32_000), parts(24_000)),
    ),
)
ANIMATE_14B = offer(
    "wan-2.2-animate-14b",
    "Wan 2.2 Animate 14B",
    "Moves the character of a picture after a pose video and a face video, which have to be made from footage "
    "beforehand. It works in segments of 77 frames and is as long as the pose video.",
    licence=APACHE,
    size=LARGE,
    frames=FrameRule("params", least=5, default=77, most=770),
    typical_mpix_s=0.05,
    presets=presets({"steps": 10}, {"steps": 15}, {"steps": 20}),
    facts=wan(
        pipelines=MappingProxyType({"character": "WanAnimatePipeline"}),
        slots=MappingProxyType(
            {
                "character": (
                    Slots(
                        needs=MappingProxyType(
                            {"image": "image", "pose_video": "pose_video", "face_video": "face_video"}
                        )
                    ),
                )
            }
        ),
        load_as="character",
        repo=pinned("Wan-AI/Wan2.2-Animate-14B-Diffusers"),
        fps=Fraction(30),
        steps=Steps(default=20),
        guidance=(Guidance(argument="guidance_scale", default=1.0),),
        dtypes=SEEING,
        scheduler=unipc((0, 5.0)),
        call=MappingProxyType({"segment_frame_length": 77}),
        # No step cache was tried with this denoiser.
        caches=(),
        profiles=(whole(80_000), parts(48_000)),
    ),
)
ROWS = (T2V_A14B, I2V_A14B, TI2V_5B, ANIMATE_14B)
