"""An estimate follows all that a run has to compute, and rests on measurements as soon as there are some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from framewright import catalogue
from framewright import plan as planning
from framewright.catalogue.effort import effort
from framewright.devices import UTILISATION
from framewright.estimate import AFTER_MPIX_S, AROUND_S, Estimate, estimate
from framewright.given import AssetFacts
from framewright.ids import ASSET, public, uuid7
from framewright.params import JobRequest
from framewright.plan import Plan, StepPlan
from framewright.rows import Durations, Pace, WorkerRow

MODEL = "wan-2.1-t2v-1.3b"
ROWS = [row.name for row in catalogue.rows() if row.diffusion is not None]
NEVER = Durations(0, 0.0, 0.0)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def asset(frames: int = 1) -> tuple[str, AssetFacts]:
    ident, kind = uuid7(), "image" if frames == 1 else "video"
    facts = AssetFacts(
        ident, f"{kind}/x", kind, 1000, 1280, 720, frames, "16/1", None, f"t/default/a/{ident.hex}", "00" * 32  # type: ignore[arg-type]
    )  # fmt: skip
    return public(ASSET, ident), facts


def generate(model: str = MODEL, /, *, video: bool = False, **params: Any) -> Plan:
    clip = asset(frames=81)
    given = {"video": clip[0]} if video else {}
    body = {"kind": "generate", "model": model, "input": given, "params": {"prompt": "a fox", **params}}
    return planning.plan(JobRequest.model_validate(body), dict([clip]))


def only(plan: Plan) -> StepPlan:
    (step,) = plan.steps
    return step


def flops(plan: Plan) -> float:
    step = only(plan)
    facts = catalogue.named(step.model).diffusion
    assert facts is not None
    return effort(facts, step.params).flops


def worker(gpu: str | None, name: str = "w", **more: Any) -> WorkerRow:
    gpus = [{"name": gpu, "vram_mb": 80_000}] if gpu else []
    engines = tuple(f"diffusion:{model}" for model in ROWS)
    here = WorkerRow(
        name, "host", 1, "0", ("gpu",), engines, ("generate",), "idle", "run", True, NOW, NOW, {"gpus": gpus}, ()
    )
    return replace(here, **more)


def seconds(plan: Plan, *workers: WorkerRow, runs: Sequence[Pace] = (), past: Durations = NEVER) -> Estimate:
    return estimate(plan, workers, paces=lambda _kind, _model: runs, durations=lambda _kind, _model: past)


def ran(plan: Plan, step_s: float, around: float, by: str = "w") -> Pace:
    """What is kept of a run of that plan whose last pass took `step_s` a step."""
    step = only(plan)
    facts = catalogue.named(step.model).diffusion
    assert facts is not None
    took = effort(facts, step.params)
    return Pace(step.work, around + took.flops / took.step * step_s, step_s, step.params, by)


BASES: list[tuple[str, tuple[WorkerRow, ...], list[Pace]]] = [
    ("catalogue", (), []),
    ("flops", (worker("NVIDIA H200"),), []),
    ("measured", (), [ran(generate(), 3.0, 20.0)] * 3),
]


@pytest.mark.parametrize(("basis", "workers", "runs"), BASES, ids=[basis for basis, _, _ in BASES])
def test_more_steps_frames_and_pixels_take_longer_whatever_it_rests_on(
    basis: str, workers: tuple[WorkerRow, ...], runs: list[Pace]
) -> None:
    for name, values in (
        ("steps", (4, 20, 50, 100)),
        ("frames", (17, 33, 81, 121)),
        ("size", ("256x256", "832x480", "1280x720")),
        ("guidance", (1.0, 5.0)),
    ):
        made = [seconds(generate(**{name: value}), *workers, runs=runs) for value in values]
        assert {one.basis for one in made} == {basis}
        assert all(less.seconds_p50 < more.seconds_p50 for less, more in pairwise(made)), name
        assert all(0 < one.seconds_p50 <= one.seconds_p90 for one in made)


def test_a_draft_costs_what_its_steps_cost() -> None:
    # Two forwards in each, of 283 TFLOP.
    assert flops(generate(steps=20)) == pytest.approx(20 * 2 * 283e12, rel=0.02)
    assert flops(generate(steps=50)) == pytest.approx(50 * 2 * 283e12, rel=0.02)
    assert flops(generate(steps=50, guidance=1.0)) == pytest.approx(50 * 283e12, rel=0.02)


def test_attention_grows_faster_than_the_clip() -> None:
    small, large = generate(size="512x320"), generate(size="1024x640")
    assert only(large).work == 4 * only(small).work
    assert flops(large) > 7 * flops(small)


def test_a_video_that_is_redone_in_part_takes_a_part_of_the_steps() -> None:
    assert flops(generate(video=True, strength=0.5)) == pytest.approx(flops(generate(video=True, strength=1.0)) / 2)
    # What says how much is kept takes every step.
    model = "ltx-video-0.9.5-2b"
    assert flops(generate(model, video=True, strength=0.5)) == flops(generate(model, video=True, strength=1.0))


def test_a_second_pass_is_counted_at_the_size_that_it_has() -> None:
    model = "ltx-video-0.9.8-13b"
    once, twice = (flops(generate(model, size="768x512", steps=30, refine=refine)) for refine in (False, True))
    small, large = (flops(generate(model, size=size, steps=30)) / 30 for size in ("512x320", "1024x640"))
    assert twice == pytest.approx(30 * small + 4 * large)
    assert twice < once


def test_a_clip_in_segments_takes_every_step_in_each_of_them() -> None:
    facts = catalogue.named("wan-2.2-animate-14b").diffusion
    assert facts is not None
    short, whole, two, three = (
        effort(facts, {"size": "1280x720", "steps": 20, "guidance": 1.0, "frames": frames})
        for frames in (41, 77, 100, 200)
    )
    assert short.flops == whole.flops == 20 * whole.step
    assert (two.flops, three.flops) == (2 * whole.flops, 3 * whole.flops)


def test_forwards_are_those_that_the_pipeline_makes() -> None:
    def forwards(model: str, **params: Any) -> int:
        facts = catalogue.named(model).diffusion
        assert facts is not None
        return facts.forwards(only(generate(model, **params)).params)

    assert [forwards(MODEL), forwards(MODEL, guidance=1.0)] == [2, 1]
    # Of two that take turns, one is at work; a model with its guidance built in needs no second look.
    assert [forwards("wan-2.2-t2v-a14b"), forwards("hunyuan-video")] == [2, 1]
    assert [forwards("ltx-2-19b"), forwards("ltx-2-19b", guidance=1.0), forwards("ltx-2.5-22b")] == [4, 3, 1]


@pytest.mark.parametrize("name", ROWS)
def test_a_usual_clip_of_any_model_takes_seconds_to_hours(name: str) -> None:
    row = catalogue.named(name)
    assert row.diffusion is not None
    size = row.size.default or row.size.shaped(16, 9)
    usual = {"size": f"{size[0]}x{size[1]}", "frames": row.frames.default, "steps": row.diffusion.steps.default}
    guidance = row.diffusion.guidance[0].default
    h200 = effort(row.diffusion, {**usual, "guidance": guidance}).flops / (989e12 * UTILISATION)
    assert 0.2 < h200 < 7200


def test_without_a_gpu_that_is_known_it_rests_on_the_catalogue() -> None:
    plan = generate()
    assert seconds(plan).basis == "catalogue"
    assert seconds(plan, worker(None)).basis == "catalogue"
    assert seconds(plan, worker("Banana 9000")).basis == "catalogue"
    for idle in (worker("NVIDIA H200", control="pause"), worker("NVIDIA H200", alive=False)):
        assert seconds(plan, idle).basis == "catalogue"
    assert seconds(plan, worker("NVIDIA H200", engines=("diffusion:mochi-1",))).basis == "catalogue"


def test_the_fastest_worker_that_can_run_it_says_how_long() -> None:
    plan = generate(steps=50)
    slow, fast = worker("NVIDIA L4"), worker("NVIDIA H200", "h")
    alone, both = seconds(plan, slow), seconds(plan, slow, fast)
    assert (alone.basis, both.basis) == ("flops", "flops")
    around = AROUND_S + AFTER_MPIX_S * only(plan).work / 1e6
    assert alone.seconds_p50 == pytest.approx(around + flops(plan) / (121e12 * UTILISATION), abs=0.1)
    assert both.seconds_p50 == pytest.approx(around + flops(plan) / (989e12 * UTILISATION), abs=0.1)
    assert seconds(plan, worker("Tesla T4")).seconds_p50 > 10 * both.seconds_p50


def test_what_was_measured_comes_back_and_is_scaled_to_other_clips() -> None:
    usual = generate(steps=50)
    runs = [ran(usual, 3.0, 20.0)] * 3
    told = seconds(usual, worker("NVIDIA H200"), runs=runs)
    assert (told.basis, told.seconds_p50) == ("measured", pytest.approx(170))
    assert seconds(generate(steps=20), runs=runs).seconds_p50 == pytest.approx(80)
    assert seconds(generate(steps=50, guidance=1.0), runs=runs).seconds_p50 == pytest.approx(95)
    assert seconds(
        generate(video=True, size="832x480", steps=50, strength=0.5), runs=runs
    ).seconds_p50 == pytest.approx(95)
    assert seconds(usual, runs=runs[:2]).basis == "catalogue"


def test_a_run_in_two_passes_tells_the_pace_of_the_larger_one() -> None:
    model = "ltx-video-0.9.8-13b"
    refined, plain = (generate(model, size="768x512", steps=30, refine=refine) for refine in (True, False))
    larger = generate(model, size="1024x640", steps=30)
    runs = [ran(refined, 4.0, 20.0)] * 3
    assert seconds(refined, runs=runs).seconds_p50 == pytest.approx(runs[0].whole_s, abs=0.1)
    each = 4.0 * flops(plain) / flops(larger)
    assert seconds(plain, runs=runs).seconds_p50 == pytest.approx(20 + 30 * each, abs=0.1)


def test_runs_of_the_same_clip_say_more_than_others() -> None:
    usual, cached = generate(steps=50), generate(steps=50, cache="first-block")
    runs = [ran(usual, 3.0, 20.0)] * 9 + [ran(cached, 1.5, 20.0)] * 3
    assert seconds(cached, runs=runs).seconds_p50 == pytest.approx(95)
    assert seconds(usual, runs=runs).seconds_p50 == pytest.approx(170)


def test_runs_on_workers_that_could_take_it_say_more_than_those_of_others() -> None:
    usual = generate(steps=50)
    runs = [ran(usual, 3.0, 20.0, by="old")] * 9 + [ran(usual, 1.0, 20.0, by="new")] * 3
    assert seconds(usual, runs=runs).seconds_p50 == pytest.approx(170)
    assert seconds(usual, worker("NVIDIA H200", "new"), runs=runs).seconds_p50 == pytest.approx(70)
    # One that was started anew is known by its GPU.
    gone = worker("NVIDIA H200", "new", alive=False)
    assert seconds(usual, gone, worker("NVIDIA H200", "newer"), runs=runs).seconds_p50 == pytest.approx(70)
    assert seconds(usual, gone, worker("NVIDIA L4", "newer"), runs=runs).seconds_p50 == pytest.approx(170)


def test_a_model_that_does_not_denoise_goes_by_its_last_jobs() -> None:
    picture = asset()
    short, long = (
        planning.plan(
            JobRequest.model_validate(
                {"kind": "animate", "input": {"image": picture[0]}, "params": {"seconds": length}}
            ),
            dict([picture]),
        )
        for length in (1, 40)
    )
    assert 0 < seconds(short).seconds_p50 < seconds(long).seconds_p50 < seconds(long).seconds_p90
    assert seconds(short).basis == "catalogue"
    told = seconds(short, past=Durations(5, 2.0, 3.0))
    assert (told.basis, told.seconds_p50, told.seconds_p90) == ("recent_jobs", 2.0, 3.0)
    assert seconds(short, past=Durations(4, 2.0, 3.0)).basis == "catalogue"


def test_a_pipeline_is_as_certain_as_its_least_certain_step() -> None:
    body = {
        "kind": "pipeline",
        "steps": [
            {"name": "one", "kind": "generate", "model": MODEL, "params": {"prompt": "a fox", "steps": 50}},
            {"name": "two", "kind": "generate", "model": "mochi-1", "params": {"prompt": "a fox"}},
        ],
    }
    plan = planning.plan(JobRequest.model_validate(body), {})
    first, both = seconds(generate(steps=50), worker("NVIDIA H200")), seconds(plan, worker("NVIDIA H200"))
    assert (both.basis, both.seconds_p50 > first.seconds_p50) == ("flops", True)
    assert both.vram_mb == max(catalogue.named(name).needs.vram_mb for name in (MODEL, "mochi-1"))
    assert seconds(plan, worker("NVIDIA H200", engines=(f"diffusion:{MODEL}",))).basis == "catalogue"


def test_an_attempt_gets_no_less_time_than_the_usual_clip_and_more_for_more() -> None:
    row = catalogue.named(MODEL)
    few, usual, many = (only(generate(steps=steps)) for steps in (2, 50, 100))
    assert few.timeout_s == usual.timeout_s == row.speed.timeout_s(usual.work)
    assert many.timeout_s - row.speed.base_s == pytest.approx(2 * (usual.timeout_s - row.speed.base_s), rel=0.01)
    assert only(generate("wan-2.2-t2v-a14b", steps=100, size="1280x720")).timeout_s <= row.speed.longest_s
