"""`diffusion`: every model of the catalogue that diffusers runs. One is held at a time, warm until the process ends.

A run can be taken up by another worker after any finished step: what it is bound to is checked there, and a run that
differs in anything starts from the beginning.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from PIL import Image

from framewright import catalogue
from framewright.catalogue.diffusion import Diffusion as Facts
from framewright.catalogue.row import ModelRow
from framewright.errors import EngineError, Yielded
from framewright.jobs import Phase, Progress
from framewright.params import parse_size
from workers.diffusion import binding, loras, media, previews
from workers.diffusion.embeds import PromptCache
from workers.diffusion.loading import Loaded
from workers.diffusion.placing import placed
from workers.diffusion.previews import Look
from workers.diffusion.running import Generated, Reached, check_shape, generate
from workers.diffusion.stepping import BadSnapshot, Snapshot
from workers.engines.run import Output, Run
from workers.media import clip, tags
from workers.media.clip import Shape
from workers.media.sound import Sound

SNAPSHOT: Final = "snapshot.pt"
PREVIEW_S: Final = 2.0
CHUNK: Final = 8
"""Frames that leave the device at a time."""
_LOADED, _DENOISED = 0.05, 0.85  # of the fraction
_log = logging.getLogger(__name__)


class Diffusion:
    """Holds one loaded model and the embeddings of its prompts."""

    name: ClassVar[str] = "diffusion"

    def __init__(self) -> None:
        self._held: tuple[str, Loaded] | None = None
        self._prompts = PromptCache()

    def run(self, run: Run) -> list[Output]:
        row = catalogue.named(run.model)
        facts = row.diffusion
        if facts is None:
            raise EngineError(f"{row.name} is not a diffusion model")
        run.report(Progress(0.0, Phase.LOADING_MODEL))
        loaded = self._ready(row, facts, run)
        run.stop()
        run.report(Progress(_LOADED, Phase.ENCODING_PROMPT))
        params = run.params
        task, size = params["task"], parse_size(params["size"])
        given, worn = media.gathered(run, size), loras.gathered(run)
        pipe = loaded.pipe(task, min(size), params.get("flow_shift"))
        bound = binding.digest(
            model=row.name,
            revision=loaded.revision,
            task=task,
            params=params,
            inputs=[_digest(path) for path in _files(run.inputs)],
            loras=[one.digest() for one in worn],
            scheduler=dict(pipe.scheduler.config),
            dtypes=facts.dtypes,
            profile=loaded.profile.name,
            device=loaded.device,
        )
        begin = _resumed(run, bound)
        if run.resume is not None:
            run.resumed(begin.reached if begin else 0, begin.exact if begin else True)
        look = Look(facts.family, facts.latents.layout, int(params["frames"]) + facts.dropped, size)
        watch = _Watch(run, pipe, look, bound)
        with loras.applied(pipe, facts.lora, worn):
            made = generate(
                loaded,
                pipe,
                task,
                params,
                given,
                prompts=self._prompts,
                on_step=watch.stepped,
                check=watch.between_blocks,
                resume=begin,
                words=loras.of_words(worn),
            )
        check_shape(made.frames, size, int(params["frames"]), loaded.mend)
        return _written(run, row, loaded.revision, made, watch.step_s)

    def _ready(self, row: ModelRow, facts: Facts, run: Run) -> Loaded:
        if self._held is not None and self._held[0] == row.name:
            return self._held[1]
        if self._held is not None:
            # Not all of its memory would come back; the supervisor gives each model a process of its own.
            raise EngineError(f"this runner holds {self._held[0]} and cannot load {row.name}")
        if run.models is None:
            raise EngineError("this worker does not know where its models lie")
        begun = time.monotonic()
        loaded = placed(row, facts, run.models)
        _log.info("loaded %s in %.1f s", row.name, time.monotonic() - begun)
        self._held = (row.name, loaded)
        return loaded


class _Watch:
    """What a run tells the world after each step, and how it hears that it is to stop."""

    def __init__(self, run: Run, pipe: Any, look: Look, bound: str) -> None:
        self._run, self._pipe, self._look, self._bound = run, pipe, look, bound
        self._first: tuple[int, float] | None = None
        self.step_s: float | None = None
        """Seconds a step of this run, the first one aside, which pays for much else."""
        self._shown = time.monotonic()

    def between_blocks(self) -> None:
        # A drain waits for the end of the step, a cancel does not.
        try:
            self._run.stop()
        except Yielded:
            return

    def stepped(self, reached: Reached) -> None:
        now, step, total = time.monotonic(), reached.step, reached.steps
        self._first = self._first or (step, now)
        done = step - self._first[0]
        self.step_s = (now - self._first[1]) / done if done else None
        left = self.step_s * (total - step) if self.step_s is not None else None
        part = _LOADED + (_DENOISED - _LOADED) * step / total
        self._run.report(Progress(part, Phase.DENOISING, step=step, steps=total, eta_s=left))
        if step < total and now - self._shown >= PREVIEW_S:
            self._shown = now
            self._show(reached)
        self._keep(reached)
        self._run.stop()

    def _show(self, reached: Reached) -> None:
        last, look = reached.control.last, replace(self._look, size=reached.size)
        picture = previews.picture(self._pipe, last, look) if last else None
        if picture is not None:
            small, width, height = clip.jpeg(picture, clip.PREVIEW_SIDE, 72)
            self._run.preview(small, "image/jpeg", width, height)

    def _keep(self, reached: Reached) -> None:
        path = self._run.workdir / SNAPSHOT
        snapshot = reached.snapshot()
        snapshot.save(path)
        state = {"plan": self._bound, "step": reached.step, "exact": snapshot.exact}
        self._run.checkpoint(state, [path])


def _resumed(run: Run, bound: str) -> Snapshot | None:
    """Where an earlier attempt got to; None to start from the beginning."""
    held = run.resume or {}
    if held.get("plan") != bound:
        return None
    try:
        return Snapshot.load(run.workdir / SNAPSHOT)
    except (BadSnapshot, FileNotFoundError):
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(inputs: Mapping[str, Path | list[Path]]) -> Iterator[Path]:
    for name in sorted(inputs):
        value = inputs[name]
        yield from value if isinstance(value, list) else [value]


def _written(run: Run, row: ModelRow, revision: str, made: Generated, step_s: float | None) -> list[Output]:
    params = run.params
    shape = Shape(
        *parse_size(params["size"]),
        Fraction(params["fps"]),
        int(params["frames"]),
        quality=int(params["quality"]),
        codec=params["format"],
        phase=Phase.ENCODING,
        begun=_DENOISED,
    )
    told = {"model": row.name, "revision": revision, "seed": params["seed"], "params": dict(params)}
    outputs = clip.write(
        run,
        shape,
        lambda: _pictures(made.frames),
        sound=None if made.sound is None or made.rate is None else Sound(made.sound.numpy(), made.rate),
        comment=tags.comment({"job": run.job, **told}) if params.get("embed_metadata") else None,
    )
    facts = {
        **told,
        "steps": made.steps,
        "resumed_from_step": made.resumed_from,
        "forwards": made.forwards,
        "exact": made.exact,
        "step_s": step_s,
    }
    return [replace(outputs[0], meta={**outputs[0].meta, **facts}), *outputs[1:]]


def _pictures(frames: torch.Tensor) -> Iterator[Image.Image]:
    """Frames as 8-bit pictures: rounded, not cut, and copied from the device in chunks."""
    for start in range(0, len(frames), CHUNK):
        chunk = frames[start : start + CHUNK].float().mul(255).round_().clamp_(0, 255).to(torch.uint8)
        for one in chunk.permute(0, 2, 3, 1).contiguous().cpu().numpy():
            yield Image.fromarray(one)
