"""Runs of the tiny models: the stock call, the same under control with a snapshot of every step, and a resume."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch
from PIL import Image

from workers.diffusion import previews
from workers.diffusion.stepping import DENOISERS, Snapshot, StepControl
from workers.diffusion.x0 import predicted

STEPS = 6
CUTS = {
    name: [STEPS * segment + step for segment in range(one.segments) for step in (1, 3, 5)]
    for name, one in tiny.FAMILIES.items()
}
"""After how many steps a run dies: early, in the middle and before the last, in each of its segments."""


class Stopped(Exception):
    """What these tests raise to end a run early."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Pixels as floats and sound: what a run is judged by, to the last bit."""

    frames: np.ndarray
    sound: np.ndarray | None

    @classmethod
    def of(cls, answer: Any) -> Clip:
        sound = getattr(answer, "audio", None)
        return cls(np.asarray(answer.frames[0]), None if sound is None else sound.float().numpy())

    @property
    def digest(self) -> str:
        sound = b"" if self.sound is None else self.sound.tobytes()
        return hashlib.sha256(str(self.frames.shape).encode() + self.frames.tobytes() + sound).hexdigest()


@dataclass(slots=True)
class Journal:
    """A whole run under control: a snapshot after every step, x0 and a preview of it, and what the VAE decoded."""

    folder: Path
    clip: Clip | None = None
    forwards: int = 0
    total: int | None = None
    x0: list[torch.Tensor] = field(default_factory=list)
    answers: list[torch.Tensor] = field(default_factory=list)
    stills: list[Image.Image | None] = field(default_factory=list)
    decoded: list[torch.Tensor] = field(default_factory=list)
    previewed: list[torch.Tensor] = field(default_factory=list)

    def snapshot(self, step: int) -> Snapshot:
        return Snapshot.load(self.folder / f"{step}.pt")


class Shelf:
    """The tiny models on disk; what was run once is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stock = cache(self._stock)
        self._journals = cache(self._journal)

    def repository(self, name: str) -> Path:
        folder = self.folder / name
        return folder if folder.exists() else tiny.build(name, folder)

    def load(self, name: str, **kwargs: Any) -> Any:
        return tiny.load(self.repository(name), **kwargs)

    def journal(self, name: str, steps: int = STEPS) -> Journal:
        return self._journals(name, steps)

    def _stock(self, name: str) -> tuple[Clip, int]:
        """What diffusers alone makes, and how many forwards that took."""
        pipe = self.load(name)
        computed = counted(pipe)
        return Clip.of(call(pipe, name, tiny.seeded())), len(computed)

    def _journal(self, name: str, steps: int) -> Journal:
        pipe, folder = self.load(name), self.folder / f"{name}-journal-{steps}"
        folder.mkdir()
        journal, generator, log = Journal(folder), tiny.seeded(), []
        watch_decoder(pipe, log)

        def on_step(under: StepControl) -> None:
            under.snapshot().save(folder / f"{under.steps}.pt")
            journal.x0.append(predicted(under.last).clone())
            journal.answers.append(_answer(under.last.output).clone())
            before = len(log)
            journal.stills.append(still(pipe, name, under))
            journal.previewed += log[before:]
            del log[before:]
            journal.total = under.total

        with control(pipe, name, generator, on_step=on_step) as under:
            journal.clip = Clip.of(call(pipe, name, generator, num_inference_steps=steps))
        journal.forwards, journal.decoded = under.forwards, log
        return journal

    def resume(self, name: str, snapshot: Snapshot, **kwargs: Any) -> tuple[Clip, StepControl, list[str]]:
        """The clip of a new pipeline that goes on from `snapshot`, and the denoiser of each forward that computed."""
        pipe = self.load(name)
        return resumed(pipe, name, snapshot, **kwargs)


def resumed(pipe: Any, name: str, snapshot: Snapshot, **kwargs: Any) -> tuple[Clip, StepControl, list[str]]:
    generator, computed = tiny.seeded(), counted(pipe)
    with control(pipe, name, generator, resume=snapshot, **kwargs) as under:
        clip = Clip.of(call(pipe, name, generator))
    return clip, under, computed


def call(pipe: Any, name: str, generator: torch.Generator, **more: Any) -> Any:
    asked = {"num_inference_steps": STEPS, "output_type": "np", **tiny.FAMILIES[name].call(), **more}
    return pipe(**asked, generator=generator)


def control(pipe: Any, name: str, generator: torch.Generator, **kwargs: Any) -> StepControl:
    one = tiny.FAMILIES[name]
    return StepControl(pipe, generator, **{"schedulers": one.schedulers, "segments": one.segments, **kwargs})


def stop_at(step: int, path: Path) -> Callable[[StepControl], None]:
    """Saves a snapshot after `step` steps and ends the run there."""

    def on_step(under: StepControl) -> None:
        if under.steps == step:
            under.snapshot().save(path)
            raise Stopped

    return on_step


def counted(pipe: Any) -> list[str]:
    """A list that grows by the denoiser of every forward that computes: its last layer is told of each."""
    computed: list[str] = []
    for name in DENOISERS:
        module = getattr(pipe, name, None)
        if module is not None:
            layers = [one for one in module.modules() if isinstance(one, torch.nn.Linear | torch.nn.Conv2d)]
            layers[-1].register_forward_hook(lambda *_, name=name: computed.append(name))
    return computed


def watch_decoder(pipe: Any, log: list[torch.Tensor]) -> None:
    """Keeps what is given to the VAE to decode."""
    decode = pipe.vae.decode

    def watched(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        log.append(latents.clone())
        return decode(latents, *args, **kwargs)

    pipe.vae.decode = watched


def still(pipe: Any, name: str, under: StepControl, **how: float) -> Image.Image | None:
    """The preview of the step that `under` just finished."""
    one = tiny.FAMILIES[name]
    assert under.last is not None
    noise = one.call().get("decode_timestep", 0.0)
    look = previews.Look(one.family, one.layout, one.frames, (one.width, one.height), noise)
    return previews.picture(pipe, under.last, look, **how)


def _answer(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output.prev_sample
