"""CogVideoX: the family that runs on the least memory, at 8 and 16 frames a second."""

from __future__ import annotations

from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final

from framewright.catalogue.computing import Transformer
from framewright.catalogue.diffusion import (
    IMAGE,
    NOTHING,
    VIDEO,
    Diffusion,
    Guidance,
    Latents,
    Lora,
    Scheduler,
    Steps,
    Strength,
)
from framewright.catalogue.licences import APACHE, COGVIDEOX
from framewright.catalogue.offering import leaves, offer, parts, presets, whole
from framewright.catalogue.pins import pinned
from framewright.catalogue.row import FrameRule, SizeRule

USUAL: Final = (720, 480)
# The check is for 8, and what is no multiple of 16 fails later in a tensor.
SIZE: Final = SizeRule("model", multiple=16, least=256, most=1360, default=USUAL, max_area=720 * 480)
LARGE: Final = SizeRule("model", multiple=16, least=768, most=1360, default=(1360, 768), max_area=1360 * 1360)
FRAMES: Final = FrameRule("params", stride=8, offset=1, least=9, default=49, most=49)
LONGER: Final = FrameRule("params", stride=16, offset=1, least=17, default=81, most=161)
DPM: Final = Scheduler(kind="CogVideoXDPMScheduler", overrides=MappingProxyType({"timestep_spacing": "trailing"}))
# Its last stride is rounded.
WHOLE: Final = Steps(default=50, trained=1000)
PAIRED: Final = Transformer(parameters=4.76e9, layers=42, width=3072, patch=(2, 2, 2), text=224)
DRAFTS: Final = presets({"steps": 20, "cache": "first-block"}, {"steps": 30, "cache": "first-block"}, {"steps": 50})
TEXT: Final = MappingProxyType({"t2v": "CogVideoXPipeline", "v2v": "CogVideoXVideoToVideoPipeline"})
FROM_TEXT: Final = MappingProxyType({"t2v": NOTHING, "v2v": VIDEO})
PICTURE: Final = MappingProxyType({"i2v": "CogVideoXImageToVideoPipeline"})
FROM_PICTURE: Final = MappingProxyType({"i2v": IMAGE})


def cogvideox(**facts: Any) -> Diffusion:
    """What all of them have in common, and what one of them has of its own."""
    common: dict[str, Any] = {
        "family": "cogvideox",
        "pipelines": TEXT,
        "slots": FROM_TEXT,
        "load_as": "t2v",
        "fps": Fraction(8),
        "max_tokens": 226,
        "negative": "",
        "scheduler": DPM,
        "steps": WHOLE,
        "guidance": (Guidance(argument="guidance_scale", default=6.0),),
        "call": MappingProxyType({"use_dynamic_cfg": True}),
        "latents": Latents(layout="bfchw", channels=16, spatial=8, temporal=4),
        "denoiser": Transformer(parameters=4.76e9, layers=42, width=3072, text=226),
        "caches": ("first-block", "taylor-lite", "pyramid"),
        "lora": Lora(mixin="CogVideoXLoraLoaderMixin"),
        "profiles": (whole(26_000, tiling=True), parts(16_000), leaves(5_000)),
    }
    return Diffusion(**{**common, **facts})


REDO: Final = Strength(argument="strength", default=0.8)

SMALL = offer(
    "cogvideox-2b",
    "CogVideoX 2B",
    "Six seconds at 8 frames a second on the smallest GPUs, free for every use. Soft and a little jerky by now; good "
    "for trying prompts, and interpolation helps the motion.",
    licence=APACHE,
    size=SIZE,
    frames=FRAMES,
    typical_mpix_s=0.19,
    presets=DRAFTS,
    facts=cogvideox(
        repo=pinned("zai-org/CogVideoX-2b"),
        scheduler=Scheduler(kind="CogVideoXDDIMScheduler"),
        strength=REDO,
        denoiser=Transformer(parameters=1.33e9, layers=30, width=1920, text=226),
        steps=Steps(default=50),
        call=MappingProxyType({}),
        dtypes=MappingProxyType({"default": "float16"}),
        profiles=(whole(18_000, tiling=True), parts(12_000), leaves(4_000)),
    ),
)
FIVE = offer(
    "cogvideox-5b",
    "CogVideoX 5B",
    "Six seconds at 8 frames a second with better detail and prompts than the 2B model, and on small GPUs too.",
    licence=COGVIDEOX,
    size=SIZE,
    frames=FRAMES,
    typical_mpix_s=0.095,
    presets=DRAFTS,
    facts=cogvideox(repo=pinned("zai-org/CogVideoX-5b"), strength=REDO),
)
FIVE_I2V = offer(
    "cogvideox-5b-i2v",
    "CogVideoX 5B image to video",
    "Six seconds from a picture at 720x480, the only size it was trained for: a picture of another shape is cropped.",
    licence=COGVIDEOX,
    size=SizeRule("model", multiple=16, least=480, most=720, default=USUAL, only=(USUAL,)),
    frames=FRAMES,
    typical_mpix_s=0.095,
    presets=DRAFTS,
    facts=cogvideox(
        pipelines=PICTURE,
        slots=FROM_PICTURE,
        load_as="i2v",
        repo=pinned("zai-org/CogVideoX-5b-I2V"),
    ),
)
V1_5 = offer(
    "cogvideox-1.5-5b",
    "CogVideoX 1.5 5B",
    "Five or ten seconds at 16 frames a second and up to 1360x768. Decoding is what takes its memory.",
    licence=COGVIDEOX,
    size=LARGE,
    frames=LONGER,
    typical_mpix_s=0.085,
    presets=DRAFTS,
    facts=cogvideox(
        pipelines=MappingProxyType({"t2v": "CogVideoXPipeline"}),
        slots=MappingProxyType({"t2v": NOTHING}),
        repo=pinned("zai-org/CogVideoX1.5-5B"),
        fps=Fraction(16),
        max_tokens=224,
        denoiser=PAIRED,
        profiles=(whole(76_000, tiling=True), parts(34_000), leaves(10_000)),
    ),
)
V1_5_I2V = offer(
    "cogvideox-1.5-5b-i2v",
    "CogVideoX 1.5 5B image to video",
    "Five or ten seconds from a picture of any shape, its short side 768 or more.",
    licence=COGVIDEOX,
    size=LARGE,
    frames=LONGER,
    typical_mpix_s=0.085,
    presets=DRAFTS,
    facts=cogvideox(
        pipelines=PICTURE,
        slots=FROM_PICTURE,
        load_as="i2v",
        repo=pinned("zai-org/CogVideoX1.5-5B-I2V"),
        fps=Fraction(16),
        max_tokens=224,
        denoiser=PAIRED,
        profiles=(whole(76_000, tiling=True), parts(34_000), leaves(10_000)),
    ),
)
ROWS = (SMALL, FIVE, FIVE_I2V, V1_5, V1_5_I2V)
