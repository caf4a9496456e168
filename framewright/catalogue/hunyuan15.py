"""HunyuanVideo 1.5: 8B in eight checkpoints, one for each size, task and way of being distilled."""

from __future__ import annotations

from fractions import Fraction
from types import MappingProxyType
from typing import Final

from framewright.catalogue.computing import Transformer
from framewright.catalogue.diffusion import IMAGE, NOTHING, Diffusion, Guidance, Latents, Steps
from framewright.catalogue.hunyuan import euler
from framewright.catalogue.licences import HUNYUAN
from framewright.catalogue.offering import groups, offer, parts, presets, whole
from framewright.catalogue.pins import pinned
from framewright.catalogue.row import Buckets, FrameRule, ModelRow, SizeRule

FRAMES: Final = FrameRule("params", stride=4, offset=1, least=5, default=121, most=121)
CHECKPOINTS: Final = {"480p": (640, (848, 480)), "720p": (960, (1280, 720))}


def _row(definition: str, task: str, distilled: str, shift: float) -> ModelRow:
    base, usual = CHECKPOINTS[definition]
    from_image, steps = task == "i2v", 8 if distilled == "step_distilled" else 50
    checkpoint = "_".join(part for part in (definition, task, distilled) if part)
    name = "-".join(part for part in ("hunyuan-video-1.5", definition, task, distilled.replace("_", "-")) if part)
    how = {
        "": "Twice the work of its distilled sibling, and closer to the prompt.",
        "distilled": "Guidance is distilled into it, which halves the work.",
        "step_distilled": "Distilled to a few steps, for a clip in a sixth of the time.",
    }[distilled]
    what = "From a picture, in the shape of that picture. " if from_image else "From text. "
    return offer(
        name,
        f"HunyuanVideo 1.5 {definition} {'image' if from_image else 'text'} to video"
        + (f", {distilled.replace('_', ' ')}" if distilled else ""),
        f"{what}Nearly the quality of HunyuanVideo on a smaller GPU. {how} It takes no LoRA.",
        licence=HUNYUAN,
        # The pipeline finds the size of a clip from a picture itself, in this list.
        size=SizeRule("model", multiple=16, least=240, most=4 * base, buckets=Buckets(base))
        if from_image
        else SizeRule("model", multiple=16, least=256, most=1280, default=usual, max_area=usual[0] * usual[1]),
        frames=FRAMES,
        typical_mpix_s=0.15 * (6 if steps == 8 else 2 if distilled else 1),
        presets=presets(
            *(
                ({"steps": 6}, {"steps": 8}, {"steps": 12})
                if steps == 8
                else ({"steps": 20, "cache": "taylor-lite"}, {"steps": 30, "cache": "taylor-lite"}, {"steps": 50})
            )
        ),
        facts=Diffusion(
            family="hunyuan15",
            pipelines=MappingProxyType(
                {"i2v": "HunyuanVideo15ImageToVideoPipeline"} if from_image else {"t2v": "HunyuanVideo15Pipeline"}
            ),
            slots=MappingProxyType({"i2v": IMAGE} if from_image else {"t2v": NOTHING}),
            load_as="i2v" if from_image else "t2v",
            repo=pinned(f"hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-{checkpoint}"),
            fps=Fraction(24),
            steps=Steps(default=steps, most=20 if steps == 8 else 100),
            guidance=(Guidance(argument="guider", default=1.0 if distilled else 6.0),),
            negative="",
            scheduler=euler((0, shift)),
            latents=Latents(layout="bcfhw", channels=32, spatial=16, temporal=4),
            denoiser=Transformer(parameters=2.72e9, layers=54, width=2048, patch=(1, 1, 1), text=1985),
            caches=("taylor-lite",),
            profiles=(whole(48_000, tiling=True), parts(24_000), groups(14_000)),
        ),
    )


ROWS = (
    _row("480p", "t2v", "", 5.0),
    _row("480p", "i2v", "", 5.0),
    _row("480p", "t2v", "distilled", 5.0),
    _row("480p", "i2v", "distilled", 5.0),
    _row("480p", "i2v", "step_distilled", 7.0),
    _row("720p", "t2v", "", 9.0),
    _row("720p", "i2v", "", 7.0),
    _row("720p", "i2v", "distilled", 7.0),
)
