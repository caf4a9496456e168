"""The second stage through the engine: small, enlarged, refined, and taken up again in either pass."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny
import torch
from cases import LTX_NO
from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel
from runs import Watched
from test_watch import Clock, phases
from tiny import parts
from torch.nn.functional import interpolate
from workshop import PROMPT, SEED, STEPS, Case, Workshop, equal

from framewright import catalogue
from framewright.errors import EngineError
from workers.diffusion import watch
from workers.diffusion.pace import Pace
from workers.diffusion.stepping import blocks
from workers.engines.diffusion import Diffusion

CASE = Case(
    tiny="ltx-condition",
    like="ltx-video-0.9.8-13b",
    size=(96, 96),
    fps="30",
    max_tokens=16,
    toml="upscaler = true\n",
    params={"refine": True},
)
SECOND = 4
"""Four of its ten steps are left at a strength of 0.4."""
CALL: dict[str, Any] = {
    "prompt": PROMPT,
    "negative_prompt": LTX_NO,
    "guidance_scale": 5.0,
    "guidance_rescale": 0.7,
    "decode_timestep": 0.05,
    "decode_noise_scale": 0.025,
    "image_cond_noise_scale": 0.025,
    "max_sequence_length": 16,
    "num_frames": 9,
    "frame_rate": 30.0,
}


@pytest.fixture
def folder(workshop: Workshop, tmp_path: Path) -> Path:
    """The tiny model with an upscaler beside it."""
    folder = tmp_path / "two-stages"
    shutil.copytree(workshop.pipe_folder(CASE), folder)
    network = parts.seeded(LTXLatentUpsamplerModel, in_channels=8, mid_channels=32, num_blocks_per_stage=1)
    vae = tiny.load(folder).vae
    diffusers.LTXLatentUpsamplePipeline(vae=vae, latent_upsampler=network).save_pretrained(folder / "upscale")
    workshop.install(CASE, path=folder)
    return folder


def stock(folder: Path) -> np.ndarray:
    pipe = tiny.load(folder)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, use_dynamic_shifting=False)
    network = LTXLatentUpsamplerModel.from_pretrained(folder / "upscale" / "latent_upsampler")
    upsampler = diffusers.LTXLatentUpsamplePipeline(vae=pipe.vae, latent_upsampler=network)
    generator = tiny.seeded(SEED)
    first = {"width": 64, "height": 64, "num_inference_steps": STEPS, "output_type": "latent"}
    small = pipe(**CALL, **first, generator=generator).frames
    large = upsampler(latents=small, width=64, height=64, output_type="latent").frames
    second = {"width": 128, "height": 128, "num_inference_steps": 10, "denoise_strength": 0.4, "output_type": "pt"}
    frames = pipe(**CALL, **second, latents=large, generator=generator).frames[0]
    with torch.no_grad():
        smaller = [interpolate(one[None], (96, 96), mode="bicubic", antialias=True) for one in frames]
    return torch.cat(smaller).clamp(0, 1).numpy()


def test_a_clip_in_two_passes_is_that_of_diffusers_and_resumes_in_both(workshop: Workshop, folder: Path) -> None:
    made = workshop.run(CASE)
    assert equal(made.frames, stock(folder))
    steps = STEPS + SECOND
    assert made.meta["steps"] == steps
    assert made.meta["forwards"] == steps
    assert [one.step for one in made.watched.reports if one.steps == steps] == list(range(1, steps + 1))
    again = Diffusion()
    for step in range(1, steps + 1):
        resumed = workshop.resumed(CASE, made, step, again)
        assert equal(resumed.frames, made.frames)
        assert resumed.meta["resumed_from_step"] == step
        assert resumed.meta["forwards"] == steps - step


def test_without_it_there_is_one_pass(workshop: Workshop, folder: Path) -> None:
    made = workshop.run(CASE, refine=False)
    assert made.meta["steps"] == STEPS
    assert not equal(made.frames, workshop.run(CASE).frames)


def test_the_last_steps_of_the_second_pass_are_as_many_as_the_row_counts() -> None:
    for name in ("ltx-video-0.9.7-13b", "ltx-video-0.9.8-13b-distilled"):
        facts = catalogue.named(name).diffusion
        assert facts is not None
        assert facts.upscale is not None
        assert facts.upscale.refining == 4


@pytest.mark.parametrize("damage", [shutil.rmtree, lambda weights: (weights / "config.json").write_text("{}")])
def test_weights_of_the_upscaler_are_looked_for_before_the_first_step(
    workshop: Workshop, folder: Path, damage: Callable[[Path], object]
) -> None:
    damage(folder / "upscale" / "latent_upsampler")
    seen = workshop.watched(CASE)
    with pytest.raises(EngineError, match="upscaler"):
        Diffusion().run(seen.run)
    assert not seen.checkpoints
    assert not [one for one in seen.reports if one.steps]


def test_the_pace_is_that_of_the_second_pass_and_what_comes_between_is_told(
    workshop: Workshop, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(watch, "Pace", lambda: Pace(clock))

    def stop(seen: Watched) -> None:
        clock.at += 1.0 if len(seen.checkpoints) < STEPS else 10.0

    engine = Diffusion()
    made = workshop.run(CASE, engine, stop=stop)
    assert phases(made)[2:] == ["denoising", "upscaling", "denoising", "decoding", "encoding"]
    assert engine._held is not None
    (pipe,) = engine._held.loaded._pipes.values()
    assert made.meta["step_s"] == 10.0 * len(blocks(pipe.transformer))
