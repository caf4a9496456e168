"""LTX-Video: quick, from 2B on a small GPU to 13B with a second stage that refines an enlarged clip."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final

from framewright.catalogue.computing import Transformer
from framewright.catalogue.diffusion import (
    FIRST_LAST_CONDITIONS,
    IMAGE,
    KEYFRAMES,
    NOTHING,
    VARIANTS,
    VIDEO,
    Diffusion,
    Guidance,
    Latents,
    Lora,
    Repo,
    Scheduler,
    Slots,
    Steps,
    Strength,
    Task,
    Upscale,
)
from framewright.catalogue.licences import LTX_OPEN_RAIL, LTXV_OPEN_WEIGHTS
from framewright.catalogue.offering import groups, offer, parts, presets, whole
from framewright.catalogue.pins import pinned
from framewright.catalogue.row import FrameRule, ModelRow, SizeRule

NEGATIVE: Final = "worst quality, inconsistent motion, blurry, jittery, distorted"
SIZE: Final = SizeRule("model", multiple=32, least=256, most=1280, default=(768, 512), max_area=1280 * 736)
WIDE: Final = SizeRule("model", multiple=32, least=256, most=1280, default=(1216, 704), max_area=1280 * 736)
FRAMES: Final = FrameRule("params", stride=8, offset=1, least=9, default=97, most=257)
CONDITION: Final = "LTXConditionPipeline"
# The checkpoints from 0.9.5 on are made for conditions, and that pipeline does every task.
PIPELINES: Final = MappingProxyType(
    {"t2v": CONDITION, "i2v": CONDITION, "first-last": CONDITION, "keyframes": CONDITION, "v2v": CONDITION}
)
SLOTS: Final[MappingProxyType[Task, tuple[Slots, ...]]] = MappingProxyType(
    {"t2v": NOTHING, "i2v": IMAGE, "first-last": FIRST_LAST_CONDITIONS, "keyframes": KEYFRAMES, "v2v": VIDEO}
)
# It cannot say how far a schedule should shift, so a scheduler that asks for that fails.
STEADY: Final = Scheduler(
    kind="FlowMatchEulerDiscreteScheduler", overrides=MappingProxyType({"use_dynamic_shifting": False})
)
DECODED: Final = MappingProxyType({"decode_timestep": 0.05, "decode_noise_scale": 0.025})
DISTILLED: Final = (1000.0, 993.0, 987.0, 981.0, 975.0, 909.0, 725.0, 0.03)
# Four steps at the lower noise levels of its own.
REFINED_QUICKLY: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "strength": 0.999,
        "steps": 5,
        "adain": 1.0,
        "call": MappingProxyType({"timesteps": (1000.0, 909.0, 725.0, 421.0, 0.0)}),
    }
)
# Its repository has the VAE of the model beside it once more.
UPSCALER: Final = ("latent_upsampler/*.safetensors", "latent_upsampler/*.json")
SMALL_GPU: Final = (whole(24_000), parts(12_000), groups(10_000, fp8=True))
LARGE_GPU: Final = (whole(48_000), parts(24_000, fp8=True))
THRIFTY: Final = MappingProxyType({"steps": 12, "cache": "first-block"})
BRISK: Final = MappingProxyType({"steps": 20, "cache": "first-block"})


def ltx(**facts: Any) -> Diffusion:
    """What all of them have in common, and what one of them has of its own."""
    common: dict[str, Any] = {
        "family": "ltx",
        "pipelines": PIPELINES,
        "slots": SLOTS,
        "load_as": "t2v",
        "fps": Fraction(30),
        "max_tokens": 256,
        "negative": NEGATIVE,
        "scheduler": STEADY,
        "call": DECODED,
        "steps": Steps(default=40),
        "guidance": (Guidance(argument="guidance_scale", default=3.0),),
        "strength": Strength(argument="strength", default=0.7, kept=True),
        "latents": Latents(layout="packed", channels=128, spatial=32, temporal=8),
        "denoiser": Transformer(parameters=1.65e9, layers=28, width=2048, patch=(1, 1, 1)),
        "caches": ("first-block", "taylor-lite", "pyramid"),
        "lora": Lora(mixin="LTXVideoLoraLoaderMixin"),
        "profiles": SMALL_GPU,
    }
    return Diffusion(**{**common, **facts})


SMALL: Final = (
    "Among the quickest there are: a clip in seconds on a large GPU, and a small one is enough. It likes long prompts "
    "that describe light, camera and motion; fast or crowded motion smears."
)
STEERED: Final = " Pictures can stand at any frame, and a video can be redone."

V0_9 = offer(
    "ltx-video-0.9-2b",
    "LTX-Video 0.9 2B",
    SMALL + " The first release: from text or a first picture only; take 0.9.5 or later unless a LoRA needs this one.",
    licence=LTX_OPEN_RAIL,
    size=SIZE,
    frames=FRAMES,
    typical_mpix_s=2.0,
    presets=presets(dict(THRIFTY), dict(BRISK), {"steps": 50}),
    facts=ltx(
        pipelines=MappingProxyType({"t2v": "LTXPipeline", "i2v": "LTXImageToVideoPipeline"}),
        slots=MappingProxyType({"t2v": NOTHING, "i2v": IMAGE}),
        repo=pinned("Lightricks/LTX-Video"),
        fps=Fraction(25),
        max_tokens=128,
        strength=None,
        # Its shift follows from the length of the clip, and its VAE takes no timestep.
        scheduler=Scheduler(kind="FlowMatchEulerDiscreteScheduler"),
        call=MappingProxyType({}),
    ),
)
V0_9_5 = offer(
    "ltx-video-0.9.5-2b",
    "LTX-Video 0.9.5 2B",
    SMALL + STEERED,
    licence=LTX_OPEN_RAIL,
    size=SIZE,
    frames=FRAMES,
    typical_mpix_s=2.0,
    presets=presets(dict(THRIFTY), dict(BRISK), {"steps": 50}),
    facts=ltx(repo=pinned("Lightricks/LTX-Video-0.9.5"), fps=Fraction(25)),
)


def _of_file(file: str, base: str) -> dict[str, Repo]:
    """A checkpoint that is published as one file; all but its denoiser and VAE is in the repository `base`."""
    return {
        "repo": pinned("Lightricks/LTX-Video", files=(file,), without=(), single=file),
        "base": pinned(base, without=(*VARIANTS, "transformer/*.safetensors*", "vae/*.safetensors*")),
    }


V0_9_6 = offer(
    "ltx-video-0.9.6-2b",
    "LTX-Video 0.9.6 2B",
    SMALL + STEERED + " Better prompts and physics than 0.9.5, at 1216x704.",
    licence=LTXV_OPEN_WEIGHTS,
    size=WIDE,
    frames=FRAMES,
    typical_mpix_s=2.0,
    presets=presets(dict(THRIFTY), dict(BRISK), {"steps": 50}),
    facts=ltx(**_of_file("ltxv-2b-0.9.6-dev-04-25.safetensors", "Lightricks/LTX-Video-0.9.5")),
)
V0_9_6_DISTILLED = offer(
    "ltx-video-0.9.6-2b-distilled",
    "LTX-Video 0.9.6 2B distilled",
    SMALL + STEERED + " Distilled to a few steps without guidance: several times quicker, less faithful to the prompt.",
    licence=LTXV_OPEN_WEIGHTS,
    size=WIDE,
    frames=FRAMES,
    typical_mpix_s=12.0,
    presets=presets({"steps": 4}, {"steps": 6}, {"steps": 8}),
    facts=ltx(
        **_of_file("ltxv-2b-0.9.6-distilled-04-25.safetensors", "Lightricks/LTX-Video-0.9.5"),
        steps=Steps(default=8, most=20),
        guidance=(Guidance(argument="guidance_scale", default=1.0, most=3.0),),
        negative=None,
        caches=(),
    ),
)


def _large(name: str, title: str, weights: dict[str, Repo], *, distilled: bool, revision: str) -> ModelRow:
    said = "Distilled to a few steps without guidance. " if distilled else ""
    own: dict[str, Any] = {
        "steps": Steps(default=30),
        "guidance": (Guidance(argument="guidance_scale", default=5.0),),
        "call": MappingProxyType({**DECODED, "image_cond_noise_scale": 0.025, "guidance_rescale": 0.7}),
    }
    if distilled:
        own = {
            "steps": Steps(default=8, least=8, most=8),
            "guidance": (Guidance(argument="guidance_scale", default=1.0, most=3.0),),
            "negative": None,
            "caches": (),
            "call": MappingProxyType({**DECODED, "image_cond_noise_scale": 0.025, "timesteps": DISTILLED}),
        }
    return offer(
        name,
        title,
        f"{said}The large LTX-Video: far better detail and motion than the 2B ones, still quick for its size. With "
        "`refine` it makes a smaller clip first and sharpens an enlarged one, which is how it is meant for 720p.",
        licence=LTXV_OPEN_WEIGHTS,
        size=WIDE,
        frames=FrameRule("params", stride=8, offset=1, least=9, default=121, most=361 if revision == "0.9.8" else 257),
        typical_mpix_s=3.0 if distilled else 0.5,
        presets=presets(None, {"refine": False}, {"refine": True})
        if distilled
        else presets(dict(THRIFTY), dict(BRISK), {"steps": 30, "refine": True}),
        facts=ltx(
            **weights,
            **own,
            upscale=Upscale(
                repo=pinned("Lightricks/ltxv-spatial-upscaler-0.9.7", files=UPSCALER),
                pipeline="LTXLatentUpsamplePipeline",
                first=Fraction(2, 3),
                factor=2,
                **(REFINED_QUICKLY if distilled else {"strength": 0.4, "steps": 10}),
                tone_map=0.6 if distilled and revision == "0.9.8" else 0.0,
            ),
            denoiser=Transformer(parameters=11.3e9, layers=48, width=4096, patch=(1, 1, 1)),
            profiles=LARGE_GPU,
        ),
    )


V0_9_7 = _large(
    "ltx-video-0.9.7-13b",
    "LTX-Video 0.9.7 13B",
    {"repo": pinned("Lightricks/LTX-Video-0.9.7-dev")},
    distilled=False,
    revision="0.9.7",
)
V0_9_7_DISTILLED = _large(
    "ltx-video-0.9.7-13b-distilled",
    "LTX-Video 0.9.7 13B distilled",
    {"repo": pinned("Lightricks/LTX-Video-0.9.7-distilled")},
    distilled=True,
    revision="0.9.7",
)
V0_9_8 = _large(
    "ltx-video-0.9.8-13b",
    "LTX-Video 0.9.8 13B",
    _of_file("ltxv-13b-0.9.8-dev.safetensors", "Lightricks/LTX-Video-0.9.7-dev"),
    distilled=False,
    revision="0.9.8",
)
V0_9_8_DISTILLED = _large(
    "ltx-video-0.9.8-13b-distilled",
    "LTX-Video 0.9.8 13B distilled",
    {"repo": pinned("Lightricks/LTX-Video-0.9.8-13B-distilled")},
    distilled=True,
    revision="0.9.8",
)
ROWS = (V0_9, V0_9_5, V0_9_6, V0_9_6_DISTILLED, V0_9_7, V0_9_7_DISTILLED, V0_9_8, V0_9_8_DISTILLED)
