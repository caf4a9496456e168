"""From a request to steps: which model, which size, how many frames, in what order. Pure; nothing is queued here.

What cannot be is refused with the field named; what is changed is said in `adjusted`; nothing is lowered silently.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn
from uuid import UUID

from pydantic import ValidationError

from framewright import catalogue, ids
from framewright.catalogue.row import ModelRow
from framewright.catalogue.shaping import Adjusted, Footage, Refused, shape
from framewright.errors import AssetUnusable, FieldError, InvalidParams, NotFound
from framewright.params import KINDS, LISTS, MAX_PROBLEMS, PIPELINE, Input, JobRequest, StepRequest, validation_fields

DEFAULT_MAX_APP = 3
LORAS = "loras"
_FOOTAGE = ("video", "pose_video")
_PICTURED = frozenset({"image", "keyframes"})


@dataclass(frozen=True, slots=True)
class AssetFacts:
    """What is known of an uploaded asset: `kind` is image, video or other; sizes in pixels and bytes."""

    id: UUID
    content_type: str
    kind: Literal["image", "video", "other"]
    size: int
    width: int | None
    height: int | None
    frames: int | None
    fps: str | None
    duration_s: float | None
    key: str
    sha256: str

    def as_input(self) -> dict[str, Any]:
        """What a step's row keeps, so that a worker can fetch and check the file without asking again."""
        return {
            "asset": self.id.hex,
            "key": self.key,
            "content_type": self.content_type,
            "size": self.size,
            "sha256": self.sha256,
        }


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


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of work with nothing in the way, and what a worker must have; `basis` says what it rests on."""

    seconds_p50: float
    seconds_p90: float
    vram_mb: int
    basis: str


def estimate(plan: Plan) -> Estimate:
    """A guess from the rows' typical speed; a worker's own measurements are better wherever there are any."""
    seconds, vram_mb = 0.0, 0
    for step in plan.steps:
        row = catalogue.find(step.kind, step.model, test_engines=True)
        seconds += 1.0 + step.work / (row.speed.typical_mpix_s * 1e6)
        vram_mb = max(vram_mb, row.needs.vram_mb)
    return Estimate(round(seconds, 1), round(seconds * 3, 1), vram_mb, "catalogue")


def asset_ids(request: JobRequest) -> dict[str, str]:
    """Every asset the request names, by JSON pointer, so that the caller reads them in one query.

    A text that cannot be an id answers as an unknown one: `NotFound`, with the field named.
    """
    asked = [("", request.input, request.params)]
    asked += [(f"/steps/{i}", step.input, step.params) for i, step in enumerate(request.steps or ())]
    found = {
        f"{at}/input{place}": ref
        for at, given, _ in asked
        for refs in given.slots().values()
        for place, ref in refs
        if not ref.startswith("@")
    } | {f"{at}/params{place}": ref for at, _, params in asked for place, ref in _weights(params)}
    _refuse_unknown([place for place, ref in found.items() if not _could_be(ref)])
    return found


def _weights(params: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The LoRA files that params name, which may be anything yet: pairs of (pointer below `params`, reference)."""
    loras = params.get(LORAS)
    named = [one.get("asset") if isinstance(one, dict) else None for one in loras] if isinstance(loras, list) else []
    return [(f"/{LORAS}/{index}/asset", ref) for index, ref in enumerate(named) if isinstance(ref, str)]


def _could_be(ref: str) -> bool:
    try:
        ids.parse(ids.ASSET, ref)
    except NotFound:
        return False
    return True


def _refuse_unknown(places: list[str]) -> None:
    if places:
        wrong = tuple(FieldError(place, "not_found", "no such asset") for place in places[:MAX_PROBLEMS])
        raise NotFound("no such asset", fields=wrong)


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
        _refuse("/steps", "unknown_field", f"only a job of kind {PIPELINE} has steps")
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
        _refuse("/steps", "missing", f"a job of kind {PIPELINE} needs steps")
    for name in ("model", "input", "params", "preset"):
        if name in request.model_fields_set and getattr(request, name):
            _refuse(f"/{name}", "unknown_field", f"a job of kind {PIPELINE} says this in its steps")
    asked = request.steps or []
    needs = _needs(asked)
    outputs = {
        step.name: planner.row(step.kind, step.model, at=f"/steps/{index}").output for index, step in enumerate(asked)
    }
    planned: dict[str, StepPlan] = {}
    adjusted: list[Adjusted] = []
    for index in _order(asked, needs):
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


def _needs(steps: list[StepRequest]) -> dict[str, tuple[str, ...]]:
    """Which steps each step waits for: those it reads from and those it names in `after`."""
    names = [step.name for step in steps]
    needs: dict[str, tuple[str, ...]] = {}
    for index, step in enumerate(steps):
        if step.name in needs:
            _refuse(f"/steps/{index}/name", "duplicate", "another step has this name")
        read = [
            (f"/steps/{index}/input{place}", ref[1:])
            for refs in step.input.slots().values()
            for place, ref in refs
            if ref.startswith("@")
        ]
        for place, name in read + [(f"/steps/{index}/after/{i}", name) for i, name in enumerate(step.after)]:
            if name not in names:
                _refuse(place, "unknown_step", "no step has this name")
            if name == step.name:
                _refuse(place, "cycle", "a step cannot wait for itself")
        needs[step.name] = tuple(dict.fromkeys([name for _, name in read] + step.after))
    return needs


def _order(steps: list[StepRequest], needs: Mapping[str, tuple[str, ...]]) -> list[int]:
    """Indexes of the steps, each after all it needs and otherwise as written; a cycle is refused."""
    waiting, done, order = list(range(len(steps))), set[str](), list[int]()
    while waiting:
        ready = next((i for i in waiting if done.issuperset(needs[steps[i].name])), None)
        if ready is None:
            _refuse(f"/steps/{waiting[0]}", "cycle", "these steps wait for each other")
        waiting.remove(ready)
        order.append(ready)
        done.add(steps[ready].name)
    return order


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
        self._assets = assets
        self._test_engines = test_engines
        self._stall_s = stall_s
        self._draw_seed = draw_seed

    def row(self, kind: str, model: str | None, *, at: str) -> ModelRow:
        if kind not in KINDS:
            _refuse(f"{at}/kind", "unknown_kind", f"the kinds of jobs are: {', '.join(KINDS)}")
        if kind == PIPELINE:
            _refuse(f"{at}/kind", "unsupported_kind", "a step cannot be a pipeline itself")
        return catalogue.find(kind, model, test_engines=self._test_engines, at=at)

    def step(
        self, asked: StepRequest, *, at: str, outputs: Mapping[str, str], needs: tuple[str, ...]
    ) -> tuple[StepPlan, tuple[Adjusted, ...]]:
        row = self.row(asked.kind, asked.model, at=at)
        params = _params(row, asked, at=at)
        if row.elsewhere is not None:
            _refuse(f"{at}/model", "not_available", row.elsewhere)
        inputs, facts = self._inputs(row, asked.input, at=f"{at}/input", outputs=outputs)
        if row.diffusion is not None:
            params["task"] = _task(row, asked, at=f"{at}/input")
            params.setdefault("steps", row.diffusion.steps.default)
            inputs |= self._loras(params, at=f"{at}/params")
        if row.seed and params.get("seed") is None and row.seed.applies(params):
            params["seed"] = self._draw_seed()
        sizes = [(fact.width, fact.height) for found in facts.values() for fact in found if fact.width and fact.height]
        footage = [Footage(slot, one.frames, one.fps) for slot in _FOOTAGE for one in facts.get(slot, ())]
        try:
            shaped = shape(row, params, sizes, footage[0] if footage else None)
        except Refused as refused:
            raise InvalidParams(
                refused.detail, fields=(FieldError(at + refused.pointer, refused.code, refused.detail),)
            ) from None
        if asked.input.keyframes:
            shaped.params["keyframes"] = _keyframes(asked.input, shaped.params["frames"], at=f"{at}/input")
        planned = StepPlan(
            name=asked.name,
            kind=asked.kind,
            engine=row.capability,
            model=row.name,
            queue=row.queue,
            params=shaped.params,
            inputs=inputs,
            needs=needs,
            timeout_s=asked.timeout or row.speed.timeout_s(shaped.work),
            stall_s=self._stall_s,
            max_app=asked.max_attempts or DEFAULT_MAX_APP,
            work=shaped.work,
        )
        return planned, tuple(change.below(at) for change in shaped.adjusted)

    def _inputs(
        self, row: ModelRow, given: Input, *, at: str, outputs: Mapping[str, str]
    ) -> tuple[dict[str, Any], dict[str, list[AssetFacts]]]:
        slots = given.slots()
        rules = {rule.slot: rule for rule in row.inputs}
        for slot in slots.keys() - rules.keys():
            takes = ", ".join(rules) or "nothing"
            _refuse(f"{at}/{slot}", "unknown_field", f"this model does not take this input; it takes: {takes}")
        _refuse_unknown(
            [
                at + place
                for refs in slots.values()
                for place, ref in refs
                if not ref.startswith("@") and ref not in self._assets
            ]
        )
        inputs: dict[str, Any] = {}
        facts: dict[str, list[AssetFacts]] = {}
        for name, rule in rules.items():
            refs = slots.get(name, [])
            if len(refs) < rule.least:
                _refuse(f"{at}/{name}", "missing", f"this model needs at least {rule.least} {rule.accepts} here")
            if len(refs) > rule.most:
                _refuse(f"{at}/{name}", "out_of_range", f"this model takes at most {rule.most} here")
            found = [self._one(at + place, ref, rule.accepts, outputs) for place, ref in refs]
            facts[name] = [one for one in found if isinstance(one, AssetFacts)]
            entries = [one.as_input() if isinstance(one, AssetFacts) else {"step": one} for one in found]
            if name in slots:
                inputs[name] = entries if name in LISTS else entries[0]
        return inputs, facts

    def _loras(self, params: Mapping[str, Any], *, at: str) -> dict[str, Any]:
        """The LoRA files among the assets, in the order in which the params name them."""
        named = _weights(params)
        _refuse_unknown([at + place for place, ref in named if ref not in self._assets])
        files = [self._one(at + place, ref, "weights", {}) for place, ref in named]
        return {LORAS: [one.as_input() for one in files if isinstance(one, AssetFacts)]} if files else {}

    def _one(self, place: str, ref: str, accepts: str, outputs: Mapping[str, str]) -> AssetFacts | str:
        """The facts of an asset, or the name of the step whose output is meant."""
        if ref.startswith("@"):
            if ref[1:] not in outputs:
                _refuse(place, "unknown_step", "only a step of a pipeline can name another step")
            _refuse_medium(place, outputs[ref[1:]], accepts)
            return ref[1:]
        fact = self._assets[ref]
        _refuse_medium(place, _medium(fact), accepts)
        if accepts == "image" and not (fact.width and fact.height):
            sentence = "the picture has not been looked at, so its size is not known"
            raise AssetUnusable(sentence, fields=(FieldError(place, "asset_unusable", sentence),))
        return fact


def _params(row: ModelRow, asked: StepRequest, *, at: str) -> dict[str, Any]:
    preset: Mapping[str, Any] = {}
    if asked.preset is not None:
        chosen = row.preset(asked.preset)
        if chosen is None:
            known = ", ".join(one.name for one in row.presets) or "none"
            _refuse(f"{at}/preset", "unknown_preset", f"the presets of this model are: {known}")
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
        _refuse(f"{at}/image", "missing", "there must be a picture to animate")
    task = row.diffusion.task_of(given) if row.diffusion else None
    if task is None:
        slots = [way for ways in (row.diffusion.slots if row.diffusion else {}).values() for way in ways]
        takes = "; ".join(" and ".join(way.arguments()) or "none" for way in slots)
        _refuse(at, "not_together", f"{row.name} does not take these inputs together; it takes: {takes}")
    return task


def _keyframes(given: Input, frames: int, *, at: str) -> list[dict[str, Any]]:
    """Where the keyframes go, in their order, the last frame by its number."""
    placed: list[dict[str, Any]] = []
    for index, one in enumerate(given.keyframes or ()):
        frame = frames - 1 if one.frame == -1 else one.frame
        where = f"{at}/keyframes/{index}/frame"
        if frame >= frames:
            _refuse(where, "out_of_range", f"the clip has {frames} frames, 0 to {frames - 1}")
        if frame in {other["frame"] for other in placed}:
            _refuse(where, "duplicate", "another picture is at this frame")
        placed.append({"frame": frame, "strength": one.strength})
    return placed


def _medium(fact: AssetFacts) -> str:
    return "audio" if fact.kind == "other" and fact.content_type.startswith("audio/") else fact.kind


def _refuse_medium(place: str, medium: str, accepts: str) -> None:
    if medium != ("other" if accepts == "weights" else accepts):
        article = {"image": "an image", "video": "a video", "audio": "audio", "weights": "a file of LoRA weights"}
        sentence = f"this must be {article[accepts]}, and it is {article.get(medium, 'neither image nor video')}"
        raise AssetUnusable(sentence, fields=(FieldError(place, "asset_unusable", sentence),))


def _refuse(place: str, code: str, sentence: str) -> NoReturn:
    raise InvalidParams(sentence, fields=(FieldError(place, code, sentence),))


def _spoken(given: Input) -> dict[str, Any]:
    """The input as the request said it, for the job's own page."""
    return given.model_dump(exclude_none=True)
