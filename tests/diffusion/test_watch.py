"""What is heard of a run on its way: how far it is, how long it still takes, its checkpoints and its previews."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import TASKS, WAN
from runs import Watched
from test_engine_faults import held
from workshop import STEPS, Case, Made, Workshop, equal

from framewright import catalogue, devices
from framewright.catalogue.effort import effort
from framewright.estimate import SPREAD
from framewright.jobs import Eta, Phase, Progress
from workers.diffusion import binding, watch
from workers.diffusion.pace import Pace
from workers.diffusion.stepping import blocks
from workers.engines.diffusion import Diffusion

SEGMENTS = next(case for case in TASKS if case.tiny == "wan22-animate")
NOISE = Case(tiny="ltx-t2v-decode-timestep", like="ltx-video-0.9.5-2b", size=(32, 32), fps="25", max_tokens=16)


def phases(made: Made) -> list[str]:
    """The phases that a run went through, in order."""
    said = [one.phase for one in made.watched.reports]
    return [phase for index, phase in enumerate(said) if index == 0 or phase != said[index - 1]]


def test_a_run_says_what_it_does_and_how_far_into_a_step_it_is(workshop: Workshop) -> None:
    workshop.install(WAN)
    made = workshop.run(WAN)
    assert phases(made) == [
        *(Phase.LOADING_MODEL, Phase.ENCODING_PROMPT, Phase.DENOISING, Phase.DECODING, Phase.ENCODING),
    ]
    denoising = [one for one in made.watched.reports if one.phase is Phase.DENOISING]
    fractions = [one.fraction for one in denoising]
    assert fractions == sorted(fractions)
    ends = [index for index, one in enumerate(denoising) if one.step is not None]
    # Two forwards of two blocks a step: told of at the latest after the first of them.
    for before, end in zip([-1, *ends], ends, strict=False):
        last = denoising[before].fraction if before >= 0 else watch.LOADED
        assert any(last < one.fraction < denoising[end].fraction for one in denoising[before + 1 : end])


def test_each_segment_of_a_long_clip_is_decoded_before_the_next_one(workshop: Workshop) -> None:
    workshop.install(SEGMENTS)
    made = workshop.run(SEGMENTS)
    assert phases(made)[2:] == [*(Phase.DENOISING, Phase.DECODING) * 2, Phase.ENCODING]


def left(made: Made) -> list[Eta | None]:
    """What was still to come when denoising began, after each step, and when decoding began."""
    first = next(one.eta for one in made.watched.reports if one.phase is Phase.DENOISING)
    steps = [one.eta for one in made.watched.reports if one.step is not None]
    return [first, *steps, *(one.eta for one in made.watched.reports if one.phase is Phase.DECODING)]


def test_what_is_left_is_told_from_the_second_step_on_and_in_the_next_run_from_the_beginning(
    workshop: Workshop,
) -> None:
    workshop.install(WAN)
    engine = Diffusion()
    first = workshop.run(WAN, engine)
    assert engine._held is not None
    after_s = engine._held.past.ending_s(5 * 16 * 16, "h264")
    second = workshop.run(WAN, engine, frames=5)
    assert after_s is not None
    # Of the first step nobody knows yet how much of it was the first alone; of what follows the last one, nothing.
    assert [eta is None for eta in left(first)] == [True, True, False, False, True, True]
    assert left(second)[-2:] == [Eta(after_s, after_s, "measured")] * 2
    for eta in left(second)[:-2]:
        assert eta is not None
        assert eta.basis == "measured"
        assert after_s < eta.seconds_p50 <= (eta.seconds_p90 or 0.0)


def test_before_a_step_was_measured_what_is_left_follows_from_what_there_is_to_compute(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = replace(WAN, dtypes={"default": "bfloat16"})
    workshop.install(case)
    monkeypatch.setattr(binding, "device_name", lambda _: "NVIDIA H100 80GB HBM3")
    made = workshop.run(case)
    facts, rate = catalogue.named(case.name).diffusion, devices.rate("H100", "bfloat16")
    assert facts is not None
    assert rate is not None
    whole_s = effort(facts, made.watched.run.params).flops / rate
    begun, once, twice = left(made)[:3]
    assert begun == (pytest.approx(whole_s), pytest.approx(whole_s * SPREAD), "flops")
    assert once is not None
    assert once == (pytest.approx(whole_s * (1 - 1 / STEPS)), pytest.approx(once.seconds_p50 * SPREAD), "flops")
    assert twice is not None
    assert twice.basis == "measured"


class Clock:
    """A time that stands still until it is moved."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """By which the steps of all runs are measured."""
    made = Clock()
    monkeypatch.setattr(watch, "Pace", lambda: Pace(made))
    return made


@pytest.mark.parametrize("case", [WAN, SEGMENTS], ids=["one loop", "segments"])
def test_a_step_takes_what_its_blocks_take_without_checkpoints(workshop: Workshop, clock: Clock, case: Case) -> None:
    """Each block takes a second, each checkpoint an hour, and what is decoded between two segments a day."""
    workshop.install(case)

    def stop(_: Watched) -> None:
        clock.at += 1.0

    def report(progress: Progress) -> None:
        clock.at += 86_400.0 * (progress.phase is Phase.DECODING)

    def keep(*_: Any) -> None:
        clock.at += 3600.0

    seen = workshop.watched(case, stop=stop)
    seen.run = replace(seen.run, report=report, checkpoint=keep)
    engine = Diffusion()
    made = workshop.go(seen, engine)
    assert engine._held is not None
    (pipe,) = engine._held.loaded._pipes.values()
    assert made.meta["step_s"] == case.forwards * len(blocks(pipe.transformer))


@pytest.mark.parametrize("noise", [0.05, 0.4])
def test_a_preview_tells_the_vae_the_noise_that_the_row_says(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, noise: float
) -> None:
    case = replace(NOISE, call={"decode_timestep": noise})
    workshop.install(case)
    engine, told = Diffusion(), []
    workshop.run(case, engine)
    vae = held(engine).pipe("t2v", 32).vae
    decode = type(vae).decode

    def decoding(this: Any, latents: torch.Tensor, timestep: torch.Tensor | None = None, **more: Any) -> Any:
        told.append(timestep)
        return decode(this, latents, timestep, **more)

    single_frames(monkeypatch, vae, decoding)
    workshop.run(case, engine)
    assert [float(one) for one in told] == pytest.approx([noise] * (STEPS - 1))


def single_frames(monkeypatch: pytest.MonkeyPatch, vae: Any, answer: Callable[..., Any]) -> None:
    """This VAE answers so where it is asked for a preview, which is of one latent frame."""
    decode = type(vae).decode

    def decoding(this: Any, latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        decoded = answer if latents.shape[2] == 1 else decode
        return decoded(this, latents, *args, **kwargs)

    monkeypatch.setattr(watch, "PREVIEW_S", 0.0)
    monkeypatch.setattr(type(vae), "decode", decoding)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), ValueError("no such tile")])
def test_a_preview_that_fails_costs_the_run_nothing_else(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    workshop.install(WAN)
    engine, tried = Diffusion(), []
    made = workshop.run(WAN, engine)

    def failing(*_: Any) -> None:
        tried.append(True)
        raise error

    single_frames(monkeypatch, held(engine).pipe("t2v", 16).vae, lambda *_, **__: failing())
    again = workshop.run(WAN, engine)
    assert len(tried) == 1
    assert [record.message for record in caplog.records if "preview" in record.message] == [
        f"no more previews of this run: {type(error).__name__}"
    ]
    assert [state["step"] for state in again.watched.checkpoints] == [1, 2, 3, 4]
    assert equal(again.frames, made.frames)
    workshop.run(WAN, engine)
    assert len(tried) == 2


def test_a_preview_that_nobody_takes_costs_the_run_nothing_else(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    workshop.install(WAN)
    monkeypatch.setattr(watch, "PREVIEW_S", 0.0)
    seen, tried = workshop.watched(WAN), []

    def preview(*_: Any) -> None:
        # The first one is of a step.
        tried.append(True)
        if len(tried) == 1:
            raise OSError("the channel is gone")

    seen.run = replace(seen.run, preview=preview)
    made = workshop.go(seen, Diffusion())
    assert [record.message for record in caplog.records if "preview" in record.message] == [
        "no more previews of this run: OSError"
    ]
    assert equal(made.frames, workshop.stock(WAN))


def test_a_preview_comes_after_the_checkpoint_of_its_step(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop.install(WAN)
    engine = Diffusion()
    workshop.run(WAN, engine)
    seen, kept = workshop.watched(WAN), []
    vae = held(engine).pipe("t2v", 16).vae
    decode = type(vae).decode

    def looking(*args: Any, **kwargs: Any) -> Any:
        kept.append([state["step"] for state in seen.checkpoints])
        return decode(*args, **kwargs)

    single_frames(monkeypatch, vae, looking)
    workshop.go(seen, engine)
    assert kept == [[1], [1, 2], [1, 2, 3]]
    assert len(seen.previews) > len(kept)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no disk that is always full")
def test_a_full_disk_costs_a_checkpoint_and_not_the_step(workshop: Workshop, caplog: pytest.LogCaptureFixture) -> None:
    workshop.install(WAN)

    def stop(seen: Any) -> None:
        # Whatever is written there now finds no room; what cannot be kept is removed, and with it this.
        partial = (seen.run.workdir / watch.SNAPSHOT).with_suffix(".partial")
        if len(seen.checkpoints) == 1 and not seen.full:
            seen.full = True
            partial.symlink_to("/dev/full")

    seen = workshop.watched(WAN, stop=stop)
    seen.full = False  # type: ignore[attr-defined]
    made = workshop.go(seen, Diffusion())
    assert [state["step"] for state in seen.checkpoints] == [1, 3, 4]
    assert [record.message for record in caplog.records if "checkpoint" in record.message] == [
        "a checkpoint is not kept: No space left on device"
    ]
    assert equal(made.frames, workshop.stock(WAN))
    resumed = workshop.run(WAN, resume=seen.checkpoints[1], snapshot=workshop.kept(made, 3))
    assert resumed.meta["resumed_from_step"] == 3
