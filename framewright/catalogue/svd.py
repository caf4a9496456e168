"""Stable Video Diffusion: a picture moves for two to four seconds; there is no prompt."""

from __future__ import annotations

from fractions import Fraction
from types import MappingProxyType
from typing import Final

from framewright.catalogue.computing import UNet
from framewright.catalogue.diffusion import IMAGE, Diffusion, Guidance, Knob, Latents, Repo, Scheduler, Steps
from framewright.catalogue.licences import STABILITY
from framewright.catalogue.offering import offer, parts, presets, whole
from framewright.catalogue.pins import pinned
from framewright.catalogue.row import FrameRule, ModelRow, SizeRule

SIZE: Final = SizeRule("model", multiple=64, least=256, most=1024, default=(1024, 576), max_area=1024 * 576)
KNOBS: Final = (
    Knob(
        name="motion",
        argument="motion_bucket_id",
        default=127,
        least=1,
        most=255,
        whole=True,
        says="How much moves: 1 is almost nothing, 127 usual, 255 a lot.",
    ),
    Knob(
        name="noise",
        argument="noise_aug_strength",
        default=0.02,
        least=0.0,
        most=1.0,
        says="Noise added to the picture: more lets the clip depart from it.",
    ),
)


def _row(name: str, title: str, said: str, frames: int, repo: Repo) -> ModelRow:
    return offer(
        name,
        title,
        f"{said} It takes no prompt and decides by itself what moves, mostly the camera; people and faces often warp.",
        licence=STABILITY,
        size=SIZE,
        frames=FrameRule("params", least=2, default=frames, most=frames),
        typical_mpix_s=0.25,
        presets=presets({"steps": 10}, {"steps": 18}, {"steps": 30}),
        facts=Diffusion(
            family="svd",
            pipelines=MappingProxyType({"i2v": "StableVideoDiffusionPipeline"}),
            slots=MappingProxyType({"i2v": IMAGE}),
            load_as="i2v",
            repo=repo,
            fps=Fraction(7),
            steps=Steps(default=25),
            guidance=(
                Guidance(
                    argument="max_guidance_scale", default=3.0, says="How much the last frames keep to the picture."
                ),
                Guidance(argument="min_guidance_scale", default=1.0, says="The same for the first frames."),
            ),
            prompt=False,
            knobs=KNOBS,
            scheduler=Scheduler(kind="EulerDiscreteScheduler"),
            # Its VAE knows no tiles: fewer frames at a time are what saves memory.
            call=MappingProxyType({"decode_chunk_size": 4}),
            tiling=False,
            dtypes=MappingProxyType({"default": "float16"}),
            latents=Latents(layout="bfchw", channels=4, spatial=8, temporal=1),
            denoiser=UNet(per_pixel=280e6, per_pair=7300),
            profiles=(whole(12_000), parts(8_000, tiling=False)),
        ),
    )


ROWS = (
    _row(
        "svd",
        "Stable Video Diffusion",
        "14 frames from a picture on a small GPU.",
        14,
        pinned("stabilityai/stable-video-diffusion-img2vid", gated=True),
    ),
    _row(
        "svd-xt",
        "Stable Video Diffusion XT",
        "25 frames from a picture on a small GPU.",
        25,
        pinned("stabilityai/stable-video-diffusion-img2vid-xt", gated=True),
    ),
    _row(
        "svd-xt-1.1",
        "Stable Video Diffusion XT 1.1",
        "25 frames from a picture on a small GPU, steadier than XT at its usual motion.",
        25,
        pinned("stabilityai/stable-video-diffusion-img2vid-xt-1-1", gated=True),
    ),
)
