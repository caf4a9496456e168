"""LTX-2: picture and sound in one pass."""

from __future__ import annotations

from dataclasses import replace
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
    Diffusion,
    Guidance,
    Latents,
    Lora,
    Scheduler,
    Slots,
    Steps,
)
from framewright.catalogue.licences import LTX2_COMMUNITY
from framewright.catalogue.ltx import NEGATIVE
from framewright.catalogue.offering import groups, offer, parts, presets, whole
from framewright.catalogue.pins import pinned
from framewright.catalogue.row import FrameRule, SizeRule

SIZE: Final = SizeRule("model", multiple=32, least=256, most=1536, default=(768, 512), max_area=1536 * 1024)
# 1 to 20 seconds at 24 frames a second.
FRAMES: Final = FrameRule("params", stride=8, offset=1, least=9, default=121, most=481)
# Published with the checkpoints; the scheduler adds the last zero.
DISTILLED: Final = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875)
# Another denoiser and a network that enlarges latents lie beside, and no pipeline here loads them.
ELSEWHERE: Final = (*VARIANTS, "transformer_full/*", "latent_upsampler/*")
SOUND: Final = "How closely the sound follows the prompt."
AUDIBLE: Final = (
    "Makes the clip together with its sound: voices, steps and ambience that fit the picture. Speech and music are "
    "only as good as the prompt is exact. Given a sound, it makes pictures that go with that one; "
)


def _with_sound(ways: tuple[Slots, ...]) -> tuple[Slots, ...]:
    return tuple(replace(way, may=MappingProxyType({"audio": "audio_latents"})) for way in ways)


def ltx2(**facts: Any) -> Diffusion:
    """What all of them have in common, and what one of them has of its own."""
    common: dict[str, Any] = {
        "family": "ltx2",
        "pipelines": MappingProxyType(
            {
                "t2v": "LTX2Pipeline",
                "i2v": "LTX2ImageToVideoPipeline",
                "first-last": "LTX2ConditionPipeline",
                "keyframes": "LTX2ConditionPipeline",
            }
        ),
        "slots": MappingProxyType(
            {
                "t2v": _with_sound(NOTHING),
                "i2v": _with_sound(IMAGE),
                "first-last": _with_sound(FIRST_LAST_CONDITIONS),
                "keyframes": _with_sound(KEYFRAMES),
            }
        ),
        "load_as": "t2v",
        "fps": Fraction(24),
        "max_tokens": 1024,
        "negative": NEGATIVE,
        "scheduler": Scheduler(kind="FlowMatchEulerDiscreteScheduler"),
        "schedulers": 2,
        "steps": Steps(default=30),
        "guidance": (
            Guidance(argument="guidance_scale", default=3.0),
            Guidance(argument="audio_guidance_scale", default=7.0, says=SOUND),
        ),
        "call": MappingProxyType({"spatio_temporal_guidance_blocks": (28,), "use_cross_timestep": True}),
        "latents": Latents(layout="packed", channels=128, spatial=32, temporal=8),
        # Sound is a few tokens beside those of the picture.
        "denoiser": Transformer(parameters=13e9, layers=48, width=4096, patch=(1, 1, 1)),
        # One with some attention skipped, one with picture and sound apart.
        "perturbed": 2,
        "snaps": True,
        "caches": ("taylor-lite",),
        "lora": Lora(mixin="LTX2LoraLoaderMixin"),
        "audio": True,
        "audio_window": 1024,
        "profiles": (whole(96_000), parts(48_000, fp8=True), groups(32_000, fp8=True)),
    }
    return Diffusion(**{**common, **facts})


def _distilled(**facts: Any) -> Diffusion:
    """Eight steps at noise levels of its own; other ones would lose quality without a word."""
    return ltx2(
        steps=Steps(default=8, least=8, most=8),
        guidance=(
            Guidance(argument="guidance_scale", default=1.0, most=3.0),
            Guidance(argument="audio_guidance_scale", default=1.0, most=7.0, says=SOUND),
        ),
        negative=None,
        caches=(),
        perturbed=0,
        call=MappingProxyType(
            {
                "sigmas": DISTILLED,
                "stg_scale": 0.0,
                "audio_stg_scale": 0.0,
                "modality_scale": 1.0,
                "audio_modality_scale": 1.0,
                "use_cross_timestep": True,
            }
        ),
        **facts,
    )


V2 = offer(
    "ltx-2-19b",
    "LTX-2 19B",
    AUDIBLE + "it wants a large GPU.",
    licence=LTX2_COMMUNITY,
    size=SIZE,
    frames=FRAMES,
    typical_mpix_s=0.5,
    presets=presets({"steps": 12, "cache": "taylor-lite"}, {"steps": 20, "cache": "taylor-lite"}, {"steps": 40}),
    facts=ltx2(
        repo=pinned("Lightricks/LTX-2", without=ELSEWHERE),
        steps=Steps(default=40),
        call=MappingProxyType({"spatio_temporal_guidance_blocks": (29,), "use_cross_timestep": False}),
        profiles=(whole(80_000), parts(48_000, fp8=True), groups(32_000, fp8=True)),
    ),
)
V2_3 = offer(
    "ltx-2.3-22b",
    "LTX-2.3 22B",
    AUDIBLE + "it wants a large GPU. Sharper, and closer to long prompts than LTX-2.",
    licence=LTX2_COMMUNITY,
    size=SIZE,
    frames=FRAMES,
    typical_mpix_s=0.4,
    presets=presets({"steps": 12, "cache": "taylor-lite"}, {"steps": 20, "cache": "taylor-lite"}, {"steps": 30}),
    facts=ltx2(repo=pinned("diffusers/LTX-2.3-Diffusers", without=ELSEWHERE)),
)
V2_3_DISTILLED = offer(
    "ltx-2.3-22b-distilled",
    "LTX-2.3 22B distilled",
    AUDIBLE + "it wants a large GPU. A few steps without guidance: many times quicker, and blander.",
    licence=LTX2_COMMUNITY,
    size=SIZE,
    frames=FRAMES,
    typical_mpix_s=4.0,
    facts=_distilled(repo=pinned("diffusers/LTX-2.3-Distilled-Diffusers", without=ELSEWHERE)),
)
V2_5 = offer(
    "ltx-2.5-22b",
    "LTX-2.5 22B",
    AUDIBLE + "it wants a large GPU. A few steps without guidance; its sound comes at 48 kHz in stereo.",
    licence=LTX2_COMMUNITY,
    size=SIZE,
    frames=FRAMES,
    typical_mpix_s=4.0,
    facts=_distilled(repo=pinned("Lightricks/LTX-2.5-Diffusers", without=ELSEWHERE, gated=True)),
)
ROWS = (V2, V2_3, V2_3_DISTILLED, V2_5)
