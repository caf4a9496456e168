"""Step control: progress, cancel, checkpoint and bit-exact resume of any diffusers pipeline, at its scheduler.

A pipeline is not changed. While controlled, its scheduler's class is a subclass whose `step` passes through here (it
survives the deep copy that pipelines with two schedulers make), and each denoiser's `forward` is shadowed on the
instance. A resume lets the pipeline run again from its beginning with the same inputs and seed: for the finished steps
the denoisers answer zeros of the recorded shapes without computing, `scheduler.step` answers what it answered last, and
with the last of them the scheduler's state and the generator's are put back. All that comes before the loop (text and
image encoding, the order of random numbers) is the same by construction.

A pipeline may run its loop several times (segments of a long clip, each decoded before the next begins): where the
timesteps are set anew, the last answer so far is kept for good, and a resume gives every segment its own.
"""

from __future__ import annotations

import functools
import inspect
import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Self

import torch

from workers.diffusion.packing import blank, packed, shape, unpacked

HEAD: Final = b"framewright snapshot 1\n"
"""What a file begins with, its version in it; then come the SHA-256 of the rest and the rest, as torch saves it."""
DENOISERS: Final = ("transformer", "transformer_2", "unet")
_NOT_STATE: Final = "_internal_dict"
"""The scheduler's configuration, which belongs to the model and not to the run."""


class BadSnapshot(ValueError):
    """What is to be resumed from is no snapshot of this version, or of another run."""


class WrongSchedulers(RuntimeError):
    """The pipeline steps another number of schedulers than the row of its model says."""


@dataclass(frozen=True, slots=True)
class Step:
    """A finished scheduler call: `given` went in by name, `output` came out; `index` is its position in `sigmas`."""

    scheduler: Any
    index: int | None
    given: Mapping[str, Any]
    output: Any


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where a run stands after `step` finished steps (>= 1), all tensors on the CPU.

    `shapes` are those of the denoisers' answers, `schedulers` holds each scheduler's calls, last answer, state and the
    ends of its earlier segments, in the order of their first call; `generator` is the state of the seeded generator and
    `ambient` those of the process's own (CPU, then the device), which a few schedulers draw from. `exact` is false
    where a cache across steps was on: such a run goes on well, but not to the same bits. `earlier` is what a finished
    pass before this one left, where a run has several: its `steps`, its `latents`, and the `generator` after it.
    """

    step: int
    shapes: Mapping[str, Any]
    schedulers: tuple[Mapping[str, Any], ...]
    generator: torch.Tensor | None
    ambient: tuple[torch.Tensor, ...]
    exact: bool
    earlier: Mapping[str, Any] | None = None

    @property
    def reached(self) -> int:
        """Finished steps of the whole run, those of an earlier pass included."""
        return self.step + (int(self.earlier["steps"]) if self.earlier else 0)

    def save(self, path: Path) -> None:
        """Writes it beside `path` first, so that a file of that name is always whole; an `OSError` leaves nothing."""
        body = io.BytesIO()
        torch.save({name: getattr(self, name) for name in self.__slots__}, body)
        partial = path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                file.write(HEAD + sha256(body.getbuffer()).digest())
                file.write(body.getbuffer())
            partial.replace(path)
        except OSError:
            # What there is of it would keep a full disk full.
            partial.unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a file without running anything that stands in it; `BadSnapshot` for everything else than our own."""
        whole = path.read_bytes()
        head, digest, body = whole[: len(HEAD)], whole[len(HEAD) : len(HEAD) + 32], whole[len(HEAD) + 32 :]
        if head != HEAD:
            raise BadSnapshot(f"{path.name} does not begin with {HEAD.decode().strip()!r}")
        if sha256(body).digest() != digest:
            raise BadSnapshot(f"{path.name} is damaged: its SHA-256 is another")
        try:
            return cls(**torch.load(io.BytesIO(body), map_location="cpu", weights_only=True))
        except Exception as error:  # torch raises whatever a foreign file makes it stumble over
            raise BadSnapshot(f"{path.name} cannot be resumed from: {type(error).__name__}") from error


def denoisers(pipe: Any) -> list[tuple[str, torch.nn.Module]]:
    """The networks of `pipe` that are called at every step, by name."""
    named = [(name, getattr(pipe, name, None)) for name in DENOISERS]
    return [(name, module) for name, module in named if module is not None]


class StepControl:
    """Controls one call of `pipe`; use it as a context around that call, and once.

    `schedulers` is how many schedulers the pipeline steps and `segments` how often it runs its loop (facts of the model
    and the request); `WrongSchedulers` where the first is not so. `on_step` is called after each finished step; `check`
    before each block of a denoiser. Whatever they raise leaves the pipeline as it was, ready for the next run. `steps`
    counts finished steps, those replayed included; `forwards` the denoiser calls that computed, `replayed` those that
    did not.
    """

    def __init__(
        self,
        pipe: Any,
        generator: torch.Generator | None,
        *,
        schedulers: int = 1,
        segments: int = 1,
        on_step: Callable[[StepControl], None] = lambda _: None,
        check: Callable[[], None] | None = None,
        resume: Snapshot | None = None,
    ) -> None:
        if resume is not None and len(resume.schedulers) != schedulers:
            raise BadSnapshot(f"it holds {len(resume.schedulers)} schedulers, and the pipeline steps {schedulers}")
        self._pipe, self._generator, self._expected, self._segments = pipe, generator, schedulers, segments
        self._on_step, self._check, self._resume = on_step, check, resume
        self._schedulers: list[Any] = []
        self._calls: list[int] = []
        self._answers: list[Any] = []
        self._ends: list[list[dict[str, Any]]] = []
        self._shapes: dict[str, Any] = dict(resume.shapes) if resume else {}
        self._forward_in_step = 0
        self._undo = ExitStack()
        self.steps = self.forwards = self.replayed = 0
        self.last: Step | None = None
        """The newest call of the first scheduler, which is the one of the pictures."""

    @property
    def total(self) -> int | None:
        """Steps of the whole run, known once the loop has begun."""
        count = getattr(self._pipe, "num_timesteps", None) or getattr(self._pipe.scheduler, "num_inference_steps", None)
        return int(count) * self._segments if count and self._schedulers else None

    @property
    def replaying(self) -> bool:
        return self._resume is not None and self.steps < self._resume.step

    def snapshot(self) -> Snapshot:
        """The run after the step just finished; call it from `on_step`."""
        held = [
            {
                "calls": calls,
                "answer": packed(answer),
                "ends": list(ends),
                "state": {name: packed(value) for name, value in vars(scheduler).items() if name != _NOT_STATE},
            }
            for scheduler, calls, answer, ends in zip(
                self._schedulers, self._calls, self._answers, self._ends, strict=True
            )
        ]
        ambient = tuple(_ambient(self._pipe._execution_device))
        exact = not any(getattr(module, "is_cache_enabled", False) for _, module in denoisers(self._pipe))
        return Snapshot(self.steps, dict(self._shapes), tuple(held), self._random_state(), ambient, exact)

    def __enter__(self) -> Self:
        self._take_scheduler()
        for name, module in denoisers(self._pipe):
            self._take_denoiser(name, module)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._undo.close()
        if kind is not None:
            # Modules that were moved to the device go back, and caches across steps are emptied.
            self._pipe.maybe_free_model_hooks()
        elif self._resume is not None and self.replaying:
            raise BadSnapshot(f"it is of step {self._resume.step}, and this run has {self.steps}")

    def _random_state(self) -> torch.Tensor | None:
        return self._generator.get_state().clone() if self._generator is not None else None

    def _take_scheduler(self) -> None:
        scheduler, kind = self._pipe.scheduler, type(self._pipe.scheduler)
        original, original_set = kind.step, kind.set_timesteps

        # Pipelines look at the signatures to see which arguments a scheduler takes.
        @functools.wraps(original)
        def step(this: Any, *args: Any, **kwargs: Any) -> Any:
            return self._step(this, original, args, kwargs)

        @functools.wraps(original_set)
        def set_timesteps(this: Any, *args: Any, **kwargs: Any) -> Any:
            self._end_segment(this)
            return original_set(this, *args, **kwargs)

        changed = {"step": step, "set_timesteps": set_timesteps, "__module__": kind.__module__}
        scheduler.__class__ = type(kind.__name__, (kind,), changed)
        self._undo.callback(setattr, scheduler, "__class__", kind)

    def _take_denoiser(self, name: str, module: torch.nn.Module) -> None:
        shadowed = vars(module).get("forward")
        original = module.forward
        module.forward = functools.wraps(original)(functools.partial(self._forward, name, original))
        if shadowed is None:
            self._undo.callback(vars(module).pop, "forward")
        else:
            self._undo.callback(setattr, module, "forward", shadowed)
        if self._check is not None:
            for block in blocks(module):
                self._undo.callback(block.register_forward_pre_hook(self._before_block).remove)

    def _before_block(self, *_: object) -> None:
        if self._check is not None:
            self._check()

    def _forward(self, name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        key = f"{name}:{self._forward_in_step}"
        self._forward_in_step += 1
        if self._resume is not None and self.replaying:
            if key not in self._resume.shapes:
                raise BadSnapshot(f"it knows no answer of {key}: it is of another run")
            self.replayed += 1
            return blank(self._resume.shapes[key], self._pipe._execution_device)
        self.forwards += 1
        answer = original(*args, **kwargs)
        self._shapes[key] = shape(answer)
        return answer

    def _step(self, scheduler: Any, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        place = self._place(scheduler)
        self._calls[place] += 1
        if self._resume is not None and self.replaying:
            answer = self._replay(self._resume, place, scheduler)
        else:
            given = inspect.signature(original).bind(scheduler, *args, **kwargs).arguments
            index = _index(scheduler, given["timestep"])
            answer = original(scheduler, *args, **kwargs)
            self._answers[place] = answer
            if place == 0:
                self.last = Step(scheduler, index, given, answer)
        if len(self._calls) == self._expected and len(set(self._calls)) == 1:
            self._boundary()
        return answer

    def _place(self, scheduler: Any) -> int:
        for place, known in enumerate(self._schedulers):
            if known is scheduler:
                if len(self._schedulers) < self._expected:
                    raise WrongSchedulers(f"{self._expected} schedulers are expected, and one alone is stepped again")
                return place
        if len(self._schedulers) == self._expected:
            raise WrongSchedulers(f"{self._expected} schedulers are expected, and one more is stepped")
        self._schedulers.append(scheduler)
        self._calls.append(0)
        self._answers.append(None)
        self._ends.append([])
        return len(self._schedulers) - 1

    def _end_segment(self, scheduler: Any) -> None:
        """Keeps the answer that the segment ended with: what comes next is made of it."""
        for place, known in enumerate(self._schedulers):
            if known is scheduler and not (self._resume is not None and self.replaying):
                end = {"calls": self._calls[place], "answer": packed(self._answers[place])}
                self._ends[place].append({**end, "generator": self._random_state()})

    def _replay(self, resume: Snapshot, place: int, scheduler: Any) -> Any:
        held, device = resume.schedulers[place], self._pipe._execution_device
        self._ends[place] = list(held["ends"])
        for end in held["ends"]:
            if self._calls[place] <= end["calls"]:
                if self._calls[place] == end["calls"] and self._generator is not None:
                    self._generator.set_state(end["generator"])
                return unpacked(end["answer"], device)
        answer = self._answers[place] = unpacked(held["answer"], device)
        if self._calls[place] == held["calls"]:
            for name, value in held["state"].items():
                vars(scheduler)[name] = unpacked(value, device)
            everyone = all(calls == one["calls"] for calls, one in zip(self._calls, resume.schedulers, strict=False))
            if everyone and len(self._calls) == len(resume.schedulers):
                _set_ambient(device, resume.ambient)
                if self._generator is not None and resume.generator is not None:
                    self._generator.set_state(resume.generator)
        return answer

    def _boundary(self) -> None:
        finished_now = not self.replaying
        self.steps += 1
        self._forward_in_step = 0
        if finished_now:
            self._on_step(self)


def blocks(module: torch.nn.Module) -> list[torch.nn.Module]:
    """What a denoiser repeats: the members of its own module lists."""
    return [block for held in module.children() if isinstance(held, torch.nn.ModuleList) for block in held]


def _ambient(device: torch.device) -> list[torch.Tensor]:
    """The states of the process's own generators: the CPU's, and the device's where it is another."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state())
    return states


def _set_ambient(device: torch.device, states: Sequence[torch.Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type != "cpu" and len(states) > 1:
        torch.get_device_module(device).set_rng_state(states[1])


def _index(scheduler: Any, timestep: Any) -> int | None:
    """The position that `step` is about to use; schedulers find it at their first step."""
    if not hasattr(scheduler, "_step_index"):
        return None
    if scheduler._step_index is None:
        scheduler._init_step_index(timestep)
    index: int | None = scheduler._step_index
    return index
