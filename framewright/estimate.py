"""How long a plan takes where nothing is in the way: from runs that were measured, else from what there is to compute.

Loading a model that no worker holds, and weights that come and go for want of memory, are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, Final, Literal

from framewright import catalogue, devices
from framewright.catalogue.diffusion import Diffusion
from framewright.catalogue.effort import effort, typical_s
from framewright.plan import Plan, StepPlan
from framewright.rows import Durations, Pace, WorkerRow

Basis = Literal["catalogue", "flops", "recent_jobs", "measured"]
"""What seconds rest on, the least certain first."""
_BASES: Final[tuple[Basis, ...]] = ("catalogue", "flops", "recent_jobs", "measured")
ALIKE: Final = 3
"""So many runs say more than a reckoning, and so many of the same clip more than others."""
ENOUGH: Final = 5
"""The same for models that do not denoise."""
SPREAD: Final = 2
"""So many times what was reckoned from a GPU's rate is what nine of ten runs stay below."""
AROUND_S: Final = 10.0
"""Reading the prompt, fetching inputs, signing and storing the clip."""
AFTER_MPIX_S: Final = 0.1
"""Decoding and encoding a megapixel of output: 0.03 to 0.3 s, by VAE and GPU."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of work, what they rest on (the least certain of the steps), and what a worker must have."""

    seconds_p50: float
    seconds_p90: float
    vram_mb: int
    basis: Basis


@dataclass(frozen=True, slots=True)
class _Seconds:
    p50: float
    p90: float
    basis: Basis


def estimate(
    plan: Plan,
    workers: Sequence[WorkerRow],
    *,
    paces: Callable[[str, str], Sequence[Pace]],
    durations: Callable[[str, str], Durations],
) -> Estimate:
    """`workers` are all that are known; `paces` and `durations` tell the past of a kind and model."""
    steps = [_of_step(step, workers, paces, durations) for step in plan.steps]
    rows = [catalogue.find(step.kind, step.model, test_engines=True) for step in plan.steps]
    return Estimate(
        round(sum(step.p50 for step in steps), 1),
        round(sum(step.p90 for step in steps), 1),
        max((row.needs.vram_mb for row in rows), default=0),
        min((step.basis for step in steps), key=_BASES.index),
    )


def _of_step(
    step: StepPlan,
    workers: Sequence[WorkerRow],
    paces: Callable[[str, str], Sequence[Pace]],
    durations: Callable[[str, str], Durations],
) -> _Seconds:
    row = catalogue.find(step.kind, step.model, test_engines=True)
    facts = row.diffusion
    if facts is None:
        taken = durations(step.kind, step.model)
        if taken.n >= ENOUGH:
            return _Seconds(taken.p50_s, taken.p90_s, "recent_jobs")
        guess = 1.0 + step.work / (row.speed.typical_mpix_s * 1e6)
        return _Seconds(guess, guess * 3, "catalogue")
    runs = _telling(step, paces(step.kind, step.model), workers)
    if len(runs) >= ALIKE:
        return _measured(sorted(_as_this(step, facts, run) for run in runs))
    around = AROUND_S + _after_s(step.work)
    rates = [
        flops_s for worker in workers if worker.able(step.queue, step.engine) and (flops_s := _rate(worker, facts))
    ]
    if rates:
        denoise = effort(facts, step.params).flops / max(rates)
        return _Seconds(around + denoise, (around + denoise) * SPREAD, "flops")
    guess = around + typical_s(row, facts, step.params)
    return _Seconds(guess, guess * 3, "catalogue")


def _measured(seconds: Sequence[float]) -> _Seconds:
    return _Seconds(median(seconds), quantiles(seconds, n=10, method="inclusive")[-1], "measured")


def _telling(step: StepPlan, runs: Sequence[Pace], workers: Sequence[WorkerRow]) -> Sequence[Pace]:
    """The runs that say most: on workers that could take this step or on GPUs like theirs, and of such a clip."""
    able = [worker for worker in workers if worker.able(step.queue, step.engine)]
    gpus = {_gpu(worker) for worker in able} - {None}
    near = {worker.id for worker in workers if worker in able or _gpu(worker) in gpus}
    here = [run for run in runs if run.worker in near]
    told = here if len(here) >= ALIKE else runs
    alike = [run for run in told if run.work == step.work and _way(run.params) == _way(step.params)]
    return alike if len(alike) >= ALIKE else told


def _way(params: Mapping[str, Any]) -> tuple[Any, ...]:
    """What changes the pace by more than the arithmetic says."""
    return params.get("cache"), params.get("refine")


def _as_this(step: StepPlan, facts: Diffusion, run: Pace) -> float:
    """Seconds that a past run would have taken, had it been this step."""
    past, now = effort(facts, run.params), effort(facts, step.params)
    each_s = run.step_s / past.step
    around = max(0.0, run.whole_s - past.flops * each_s)
    return max(0.0, around + _after_s(step.work) - _after_s(run.work)) + now.flops * each_s


def _after_s(work: int) -> float:
    return AFTER_MPIX_S * work / 1e6


def _gpu(worker: WorkerRow) -> str | None:
    """The GPU that a worker computes on, the first of its own; None for one without."""
    gpus: Sequence[Mapping[str, Any]] = worker.capabilities.get("gpus", ())
    return str(gpus[0]["name"]) if gpus else None


def _rate(worker: WorkerRow, facts: Diffusion) -> float | None:
    gpu = _gpu(worker)
    return None if gpu is None else rate(gpu, facts)


def rate(gpu: str, facts: Diffusion) -> float | None:
    """FLOP/s that the denoiser of a model is likely to reach on a GPU of this name; None for one not listed."""
    return devices.rate(gpu, facts.dtypes.get("transformer", facts.dtypes["default"]))
