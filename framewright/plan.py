"""From a request to steps: which model, which size, how many frames, in what order. Pure; nothing is queued here.

What cannot be is refused with the field named; what is changed is said in `adjusted`; nothing is lowered silently.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from framewright import catalogue, graph
from framewright.catalogue.effort import typical_s
from framewright.catalogue.row import ModelRow
from framewright.catalogue.shaping import Adjusted, Footage, Refused, Shaped, shape
from framewright.errors import FieldError, InvalidParams
from framewright.given import AssetFacts, Given, heard
from framewright.params import KINDS, PIPELINE, Input, JobRequest, StepRequest, validation_fields
from framewright.refusals import refuse

DEFAULT_MAX_APP = 3
_FOOTAGE = ("video", "pose_video")
_PICTURED = frozenset({"image", "keyframes"})


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step as it is stored. `work` is the output in pixels x frames; `max_app` how many attempts may fail."""

    name: str
    kind: str
    engine: str
    model: str
    queue: str
    params: dict[str, Any]
    inputs: dict[str, Any]
    needs: tuple[str, ...]
    timeout_s: float
    stall_s: float
    max_app: int
    work: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that can be done: its steps in an order in which each comes after what it needs."""

    kind: str
    model: str | None
    steps: tuple[StepPlan, ...]
    params: dict[str, Any]
    adjusted: tuple[Adjusted, ...]
    input: dict[str, Any]


def plan(
    request: JobRequest,
    assets: Mapping[str, AssetFacts],
    *,
    test_engines: bool = False,
    stall_s: float = 120.0,
    draw_seed: Callable[[], int] = lambda: secrets.randbits(32),
) -> Plan:
    """The steps of a request. `assets` holds the tenant's assets by public id; one that it lacks is `NotFound`.

    Raises `InvalidParams`, `UnknownModel`, `AssetUnusable` or `NotFound`, each naming its fields.
    """
    planner = _Planner(assets, test_engines=test_engines, stall_s=stall_s, draw_seed=draw_seed)
    if request.kind == PIPELINE:
        return _pipeline(request, planner)
    if request.steps is not None:
        refuse("/steps", "unknown_field", f"only a job of kind {PIPELINE} has steps")
    only = StepRequest(
        name="main",
        kind=request.kind,
        model=request.model,
        input=request.input,
        params=request.params,
        preset=request.preset,
        timeout=request.timeout,
        max_attempts=request.max_attempts,
    )
    step, adjusted = planner.step(only, at="", outputs={}, needs=())
    return Plan(request.kind, step.model, (step,), step.params, adjusted, _spoken(request.input))


def _pipeline(request: JobRequest, planner: _Planner) -> Plan:
    if not request.steps:
        refuse("/steps", "missing", f"a job of kind {PIPELINE} needs steps")
    for name in ("model", "input", "params", "preset"):
        if name in request.model_fields_set and getattr(request, name):
            refuse(f"/{name}", "unknown_field", f"a job of kind {PIPELINE} says this in its steps")
    asked = request.steps or []
    needs = graph.needs(asked)
    outputs = {
        step.name: planner.row(step.kind, step.model, at=f"/steps/{index}").output for index, step in enumerate(asked)
    }
    planned: dict[str, StepPlan] = {}
    adjusted: list[Adjusted] = []
    for index in graph.order(asked, needs):
        step = asked[index].model_copy(
            update={
                "timeout": asked[index].timeout or request.timeout,
                "max_attempts": asked[index].max_attempts or request.max_attempts,
            }
        )
        planned[step.name], changed = planner.step(step, at=f"/steps/{index}", outputs=outputs, needs=needs[step.name])
        adjusted.extend(changed)
    shown = [
        {
            "name": step.name,
            "kind": step.kind,
            "model": planned[step.name].model,
            "input": _spoken(step.input),
            "params": planned[step.name].params,
            "needs": list(needs[step.name]),
        }
        for step in asked
    ]
    return Plan(request.kind, None, tuple(planned.values()), {"steps": shown}, tuple(adjusted), {})


class _Planner:
    """Plans single steps against one set of assets."""

    def __init__(
        self,
        assets: Mapping[str, AssetFacts],
        *,
        test_engines: bool,
        stall_s: float,
        draw_seed: Callable[[], int],
    ) -> None:
        self._given = Given(assets)
        self._test_engines = test_engines
        self._stall_s = stall_s
        self._draw_seed = draw_seed

    def row(self, kind: str, model: str | None, *, at: str) -> ModelRow:
        if kind not in KINDS:
            refuse(f"{at}/kind", "unknown_kind", f"the kinds of jobs are: {', '.join(KINDS)}")
        if kind == PIPELINE:
            refuse(f"{at}/kind", "unsupported_kind", "a step cannot be a pipeline itself")
        return catalogue.find(kind, model, test_engines=self._test_engines, at=at)

    def step(
        self, asked: StepRequest, *, at: str, outputs: Mapping[str, str], needs: tuple[str, ...]
    ) -> tuple[StepPlan, tuple[Adjusted, ...]]:
        row = self.row(asked.kind, asked.model, at=at)
        params = _params(row, asked, at=at)
        if row.elsewhere is not None:
            refuse(f"{at}/model", "not_available", row.elsewhere)
        inputs, facts = self._given.inputs(row, asked.input, at=f"{at}/input", outputs=outputs)
        if row.diffusion is not None:
            params["task"] = _task(row, asked, at=f"{at}/input")
            params.setdefault("steps", row.diffusion.steps.default)
            inputs |= self._given.loras(params, at=f"{at}/params")
        if row.seed and params.get("seed") is None and row.seed.applies(params):
            params["seed"] = self._draw_seed()
        sizes = [(fact.width, fact.height) for found in facts.values() for fact in found if fact.width and fact.height]
        footage = [Footage(slot, one.frames, one.fps) for slot in _FOOTAGE for one in facts.get(slot, ())]
        try:
            shaped = shape(row, params, sizes, footage[0] if footage else None)
            changed = [*shaped.adjusted, *self._given.fitted(row, asked.input, shaped.params)]
        except Refused as refused:
            raise InvalidParams(
                refused.detail, fields=(FieldError(at + refused.pointer, refused.code, refused.detail),)
            ) from None
        planned = StepPlan(
            name=asked.name,
            kind=asked.kind,
            engine=row.capability,
            model=row.name,
            queue=row.queue,
            params=shaped.params,
            inputs=inputs,
            needs=needs,
            timeout_s=asked.timeout or _timeout_s(row, shaped),
            stall_s=self._stall_s,
            max_app=asked.max_attempts or DEFAULT_MAX_APP,
            work=shaped.work,
        )
        changed += heard(facts.get("audio", ()), shaped.params)
        return planned, tuple(change.below(at) for change in changed)


def _params(row: ModelRow, asked: StepRequest, *, at: str) -> dict[str, Any]:
    preset: Mapping[str, Any] = {}
    if asked.preset is not None:
        chosen = row.preset(asked.preset)
        if chosen is None:
            known = ", ".join(one.name for one in row.presets) or "none"
            refuse(f"{at}/preset", "unknown_preset", f"the presets of this model are: {known}")
        preset = chosen.params
    try:
        return row.params.model_validate({**preset, **asked.params}).model_dump()
    except ValidationError as error:
        wrong = validation_fields(error, at=f"{at}/params")
        raise InvalidParams("some params cannot be used", fields=wrong) from None


def _task(row: ModelRow, asked: StepRequest, *, at: str) -> str:
    """What a diffusion model is to do, as it follows from the inputs."""
    given = asked.input.slots().keys()
    if asked.kind == "animate" and not given & _PICTURED:
        refuse(f"{at}/image", "missing", "there must be a picture to animate")
    task = row.diffusion.task_of(given) if row.diffusion else None
    if task is None:
        slots = [way for ways in (row.diffusion.slots if row.diffusion else {}).values() for way in ways]
        takes = "; ".join(" and ".join(way.arguments()) or "none" for way in slots)
        refuse(at, "not_together", f"{row.name} does not take these inputs together; it takes: {takes}")
    return task


def _timeout_s(row: ModelRow, shaped: Shaped) -> float:
    """The hard limit of an attempt: as for the usual clip of this size and length, and more where there is more to do.

    Fewer steps than usual do not shorten it.
    """
    if row.diffusion is None:
        return row.speed.timeout_s(shaped.work)
    as_much = typical_s(row, row.diffusion, shaped.params) * row.speed.typical_mpix_s * 1e6
    return row.speed.timeout_s(max(shaped.work, int(as_much)))


def _spoken(given: Input) -> dict[str, Any]:
    """The input as the request said it, for the job's own page."""
    return given.model_dump(exclude_none=True)
