"""Wan 2.1 and 2.2: the Apache-2.0 family, from one that fits 8 GB to a pair of 14B denoisers."""

from __future__ import annotations

from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final

from framewright.catalogue.computing import Transformer
from framewright.catalogue.diffusion import (
    FIRST_LAST,
    IMAGE,
    NOTHING,
    VIDEO,
    Cache,
    Diffusion,
    Guidance,
    Knob,
    Latents,
    Lora,
    Profile,
    Repo,
    Scheduler,
    Slots,
    Steps,
    Strength,
)
from framewright.catalogue.licences import APACHE
from framewright.catalogue.offering import leaves, offer, parts, presets, whole
from framewright.catalogue.pins import pinned
from framewright.catalogue.row import FrameRule, ModelRow, SizeRule

NEGATIVE: Final = (
    "overexposed, static, blurred details, subtitles, worst quality, low quality, compression artifacts, ugly, "
    "extra fingers, poorly drawn hands, poorly drawn face, deformed, fused fingers, still picture, messy background"
)
CACHES: Final[tuple[Cache, ...]] = ("first-block", "taylor-lite", "pyramid")
FRAMES: Final = FrameRule("params", stride=4, offset=1, least=5, default=81, most=121)
SMALL: Final = SizeRule("model", multiple=16, least=256, most=1280, default=(832, 480), max_area=1280 * 720)
LARGE: Final = SizeRule("model", multiple=16, least=256, most=1280, default=(1280, 720), max_area=1280 * 720)
SHIFT_UP: Final = ((0, 3.0), (720, 5.0))
# The VAE loses detail in 16 bits, and the image encoder is small.
FINE: Final = MappingProxyType({"default": "bfloat16", "vae": "float32"})
SEEING: Final = MappingProxyType({**FINE, "image_encoder": "float32"})
SMALL_NET: Final = Transformer(parameters=1.25e9, layers=30, width=1536)
LARGE_NET: Final = Transformer(parameters=12e9, layers=40, width=5120)
THRIFTY: Final = MappingProxyType({"steps": 20, "cache": "first-block"})
BRISK: Final = MappingProxyType({"steps": 30, "cache": "first-block"})


def unipc(*shifts: tuple[int, float]) -> Scheduler:
    return Scheduler(kind="UniPCMultistepScheduler", shift="flow_shift", shifts=shifts)


def wan(**facts: Any) -> Diffusion:
    """What all of them have in common, and what one of them has of its own."""
    common: dict[str, Any] = {
        "family": "wan",
        "fps": Fraction(16),
        "max_tokens": 512,
        "negative": NEGATIVE,
        "scheduler": unipc(*SHIFT_UP),
        "dtypes": FINE,
        "latents": Latents(layout="bcfhw", channels=16, spatial=8, temporal=4),
        "denoiser": LARGE_NET,
        "caches": CACHES,
        "lora": Lora(mixin="WanLoraLoaderMixin"),
        "guidance": (Guidance(argument="guidance_scale", default=5.0),),
        "steps": Steps(default=50),
    }
    return Diffusion(**{**common, **facts})


TEXT_PIPELINES: Final = MappingProxyType({"t2v": "WanPipeline", "v2v": "WanVideoToVideoPipeline"})
TEXT_SLOTS: Final = MappingProxyType({"t2v": NOTHING, "v2v": VIDEO})
IMAGE_PIPELINES: Final = MappingProxyType({"i2v": "WanImageToVideoPipeline"})
IMAGE_SLOTS: Final = MappingProxyType({"i2v": IMAGE})
CONTROL: Final = (
    Slots(
        needs=MappingProxyType({"video": "video"}),
        may=MappingProxyType({"mask": "mask", "reference_images": "reference_images"}),
    ),
    Slots(needs=MappingProxyType({"reference_images": "reference_images"})),
)
PAIR: Final = "The same for the second denoiser, which works on the last and less noisy steps."

T2V_1_3B = offer(
    "wan-2.1-t2v-1.3b",
    "Wan 2.1 text to video 1.3B",
    "A small, free model for short clips at 480p: it runs on small GPUs, follows plain prompts well and is the place "
    "to start. Faces, hands and text are weaker than in the 14B models, and 720p is less steady.",
    licence=APACHE,
    default_for=("generate",),
    size=SMALL,
    frames=FRAMES,
    typical_mpix_s=0.13,
    presets=presets(dict(THRIFTY), dict(BRISK), {"steps": 50, "guidance": 6.0}),
    facts=wan(
        pipelines=TEXT_PIPELINES,
        slots=TEXT_SLOTS,
        load_as="t2v",
        strength=Strength(argument="strength", default=0.8),
        repo=pinned("Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
        scheduler=unipc((0, 3.0)),
        denoiser=SMALL_NET,
        profiles=(whole(20_000), parts(12_000), leaves(8_000)),
    ),
)
T2V_14B = offer(
    "wan-2.1-t2v-14b",
    "Wan 2.1 text to video 14B",
    "Steady motion and good anatomy at 480p and 720p. Ten times the work of the 1.3B model: minutes for a clip on a "
    "large GPU, much longer with weights that come and go on a small one.",
    licence=APACHE,
    size=SMALL,
    frames=FRAMES,
    typical_mpix_s=0.027,
    presets=presets(dict(THRIFTY), dict(BRISK), {"steps": 50}),
    facts=wan(
        pipelines=TEXT_PIPELINES,
        slots=TEXT_SLOTS,
        load_as="t2v",
        strength=Strength(argument="strength", default=0.8),
        repo=pinned("Wan-AI/Wan2.1-T2V-14B-Diffusers"),
        profiles=(whole(60_000), parts(40_000), parts(24_000, fp8=True), leaves(13_000)),
    ),
)


def _from_image(name: str, title: str, repo: Repo, size: SizeRule, shift: float) -> ModelRow:
    return offer(
        name,
        title,
        "Brings a picture to life and keeps its subject and style; a prompt says what moves. Heavy: 16B parameters, "
        "which a smaller GPU holds only with 8-bit weights.",
        licence=APACHE,
        size=size,
        frames=FRAMES,
        typical_mpix_s=0.025,
        presets=presets(dict(THRIFTY), dict(BRISK), {"steps": 50}),
        facts=wan(
            pipelines=IMAGE_PIPELINES,
            slots=IMAGE_SLOTS,
            load_as="i2v",
            repo=repo,
            steps=Steps(default=40),
            dtypes=SEEING,
            scheduler=unipc((0, shift)),
            profiles=(whole(60_000), parts(42_000), parts(24_000, fp8=True)),
        ),
    )


I2V_480P = _from_image(
    "wan-2.1-i2v-14b-480p",
    "Wan 2.1 image to video 14B, 480p",
    pinned("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"),
    SMALL,
    3.0,
)
I2V_720P = _from_image(
    "wan-2.1-i2v-14b-720p",
    "Wan 2.1 image to video 14B, 720p",
    pinned("Wan-AI/Wan2.1-I2V-14B-720P-Diffusers"),
    LARGE,
    5.0,
)
FLF2V = offer(
    "wan-2.1-flf2v-14b-720p",
    "Wan 2.1 first and last frame 14B, 720p",
    "Finds the motion between a first and a last picture. Both have to show the same scene, or it morphs.",
    licence=APACHE,
    size=LARGE,
    frames=FRAMES,
    typical_mpix_s=0.025,
    presets=presets(dict(THRIFTY), dict(BRISK), {"steps": 50}),
    facts=wan(
        pipelines=MappingProxyType({"first-last": "WanImageToVideoPipeline"}),
        slots=MappingProxyType({"first-last": FIRST_LAST}),
        load_as="first-last",
        repo=pinned("Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers"),
        guidance=(Guidance(argument="guidance_scale", default=5.5),),
        dtypes=SEEING,
        scheduler=unipc((0, 5.0)),
        profiles=(whole(60_000), parts(42_000), parts(24_000, fp8=True)),
    ),
)


def _vace(
    name: str, title: str, repo: Repo, *, denoiser: Transformer, mpix_s: float, profiles: tuple[Profile, ...]
) -> ModelRow:
    return offer(
        name,
        title,
        "One model for edits: it follows a control video (depth, pose, sketch), fills what a mask leaves open, and "
        "takes a few reference pictures of what is to appear. The control video has to be made beforehand.",
        licence=APACHE,
        size=SMALL,
        frames=FRAMES,
        typical_mpix_s=mpix_s,
        presets=presets({"steps": 20}, {"steps": 30}, {"steps": 50}),
        facts=wan(
            pipelines=MappingProxyType({"t2v": "WanVACEPipeline", "control": "WanVACEPipeline"}),
            slots=MappingProxyType({"t2v": NOTHING, "control": CONTROL}),
            load_as="control",
            repo=repo,
            denoiser=denoiser,
            # No step cache was tried with this denoiser.
            caches=(),
            knobs=(
                Knob(
                    name="control",
                    argument="conditioning_scale",
                    default=1.0,
                    least=0.0,
                    most=2.0,
                    says="How closely the control video and the references are followed.",
                ),
            ),
            profiles=profiles,
        ),
    )


VACE_1_3B = _vace(
    "wan-2.1-vace-1.3b",
    "Wan 2.1 VACE 1.3B",
    pinned("Wan-AI/Wan2.1-VACE-1.3B-diffusers"),
    # Every second block has a twin for the control video.
    denoiser=Transformer(parameters=1.92e9, layers=45, width=1536),
    mpix_s=0.1,
    profiles=(whole(24_000), parts(12_000), leaves(8_000)),
)
VACE_14B = _vace(
    "wan-2.1-vace-14b",
    "Wan 2.1 VACE 14B",
    pinned("Wan-AI/Wan2.1-VACE-14B-diffusers"),
    # Every fifth has.
    denoiser=Transformer(parameters=14.6e9, layers=48, width=5120),
    mpix_s=0.02,
    profiles=(whole(80_000), parts(48_000), parts(24_000, fp8=True)),
)
ROWS = (T2V_1_3B, T2V_14B, I2V_480P, I2V_720P, FLF2V, VACE_1_3B, VACE_14B)
