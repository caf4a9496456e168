"""`diffusion`: every model of the catalogue that diffusers runs. One is held at a time, warm until the process ends.

A run can be taken up by another worker after any finished step: what it is bound to is checked there, and a run that
differs in anything starts from the beginning.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

import diffusers
import torch
import transformers
from PIL import Image

from framewright import catalogue
from framewright.catalogue.diffusion import Diffusion as Facts
from framewright.catalogue.effort import effort
from framewright.catalogue.row import ModelRow
from framewright.errors import EngineError
from framewright.jobs import Phase, Progress
from framewright.models.manifest import Manifest
from framewright.params import parse_size
from workers.diffusion import binding, loras, media
from workers.diffusion.calling import negative, segments
from workers.diffusion.embeds import PromptCache
from workers.diffusion.loading import Loaded
from workers.diffusion.loras import Asked
from workers.diffusion.pace import Past
from workers.diffusion.placing import placed
from workers.diffusion.previews import Look
from workers.diffusion.running import Generated, check_shape, generate
from workers.diffusion.stepping import BadSnapshot, Snapshot
from workers.diffusion.watch import DENOISED, LOADED, SNAPSHOT, Watch
from workers.engines.run import Output, Run
from workers.media import clip, tags
from workers.media.clip import Shape
from workers.media.sound import Sound

CHUNK: Final = 8
"""Frames that leave the device at a time."""
_log = logging.getLogger(__name__)


class Held(NamedTuple):
    """The model in memory, with the commits of all repositories that its weights came from."""

    name: str
    loaded: Loaded
    revisions: Mapping[str, str]
    past: Past


class Diffusion:
    """Holds one loaded model and the embeddings of its prompts."""

    name: ClassVar[str] = "diffusion"

    def __init__(self) -> None:
        self._held: Held | None = None
        self._prompts = PromptCache()
        # Nobody sees them move in a log.
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()

    def run(self, run: Run) -> list[Output]:
        row = catalogue.named(run.model)
        facts = row.diffusion
        if facts is None:
            raise EngineError(f"{row.name} is not a diffusion model")
        run.report(Progress(0.0, Phase.LOADING_MODEL))
        held = self._ready(row, facts, run)
        loaded, params = held.loaded, run.params
        run.stop()
        run.report(Progress(LOADED, Phase.ENCODING_PROMPT))
        task, size, frames = params["task"], parse_size(params["size"]), int(params["frames"])
        given, worn = media.gathered(run, size), loras.gathered(run)
        pipe = loaded.pipe(task, min(size), params.get("flow_shift"))
        digests = [one.digest() for one in worn]
        bound = binding.digest(
            model=row.name,
            facts=facts,
            revisions=held.revisions,
            task=task,
            pipeline=type(pipe).__name__,
            params=params,
            inputs=[_digest(path) for path in _files(run.inputs)],
            loras=digests,
            scheduler=dict(pipe.scheduler.config),
            profile=loaded.profile.name,
            device=loaded.device,
        )
        begin = _resumed(run, bound)
        reached = begin.reached if begin else 0
        if run.resume is not None:
            run.resumed(reached, begin.exact if begin else True)
        noise = float(facts.call.get("decode_timestep", 0.0))
        look = Look(facts.family, facts.latents.layout, frames + facts.dropped, size, noise)
        count = segments(facts, params)
        watch = Watch(run, loaded, pipe, look, held.past, bound=bound, segments=count, reached=reached)
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
        check_shape(made.frames, size, frames, loaded.mend)
        decoded_at = time.monotonic()
        step_s = watch.each.mean_s if watch.each else None
        outputs = _written(run, held, made, {"step_s": step_s, **_how(held, pipe, params, worn, digests)})
        if made.forwards:
            encoding_s, decoding_s = time.monotonic() - decoded_at, decoded_at - watch.denoised_at
            work = frames * size[0] * size[1]
            held.past.learn_ending(work, params["format"], decoding_s=decoding_s, encoding_s=encoding_s)
            held.past.learn(watch.each, effort(facts, params).step)
        return outputs

    def _ready(self, row: ModelRow, facts: Facts, run: Run) -> Held:
        if self._held is not None and self._held.name == row.name:
            return self._held
        if self._held is not None:
            # Not all of its memory would come back; the supervisor gives each model a process of its own.
            raise EngineError(f"this runner holds {self._held.name} and cannot load {row.name}")
        if run.models is None:
            raise EngineError("this worker does not know where its models lie")
        begun = time.monotonic()
        manifest = run.models.look(row).manifest
        loaded = placed(row, facts, run.models, run.profile)
        _log.info("loaded %s in %.1f s", row.name, time.monotonic() - begun)
        self._held = Held(row.name, loaded, _revisions(manifest, loaded), Past())
        return self._held


def _revisions(manifest: Manifest | None, loaded: Loaded) -> Mapping[str, str]:
    if manifest is None:
        return {"folder": loaded.revision}
    return {part: source.revision for part, source in manifest.sources.items()}


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


def _how(
    held: Held, pipe: Any, params: Mapping[str, Any], worn: Sequence[Asked], digests: Sequence[str]
) -> dict[str, Any]:
    """What decided the clip besides the request, and what the request left open."""
    loaded, facts = held.loaded, held.loaded.facts
    how: dict[str, Any] = {
        "profile": loaded.profile.name,
        "dtype": facts.dtypes["default"],
        "device": binding.device_name(loaded.device),
        "versions": binding.versions(),
    }
    if worn:
        pairs = zip(worn, digests, strict=True)
        how["loras"] = [{"sha256": digest, "scale": one.scale, "into": one.into} for one, digest in pairs]
    if facts.negative is not None:
        how["negative_prompt"] = negative(facts, params)
    if facts.scheduler.shift is not None:
        how["flow_shift"] = pipe.scheduler.config[facts.scheduler.shift]
    return how


def _written(run: Run, held: Held, made: Generated, how: Mapping[str, Any]) -> list[Output]:
    params = run.params
    shape = Shape(
        *parse_size(params["size"]),
        Fraction(params["fps"]),
        int(params["frames"]),
        quality=int(params["quality"]),
        codec=params["format"],
        phase=Phase.ENCODING,
        begun=DENOISED,
        black=False,
    )
    told = {"model": held.name, "revision": held.loaded.revision, "seed": params["seed"], "params": dict(params)}
    outputs = clip.write(
        run,
        shape,
        lambda: _pictures(made.frames),
        sound=None if made.sound is None or made.rate is None else Sound(made.sound.numpy(), made.rate),
        comment=tags.comment({"job": run.job, **told}) if params.get("embed_metadata") else None,
    )
    facts = {
        **told,
        **how,
        "steps": made.steps,
        "resumed_from_step": made.resumed_from,
        "forwards": made.forwards,
        "exact": made.exact,
        "tiled": made.tiled,
    }
    return [replace(outputs[0], meta={**outputs[0].meta, **facts}), *outputs[1:]]


def _pictures(frames: torch.Tensor) -> Iterator[Image.Image]:
    """Frames as 8-bit pictures: rounded, not cut, and copied from the device in chunks."""
    for start in range(0, len(frames), CHUNK):
        chunk = frames[start : start + CHUNK].float().mul(255).round_().clamp_(0, 255).to(torch.uint8)
        for one in chunk.permute(0, 2, 3, 1).contiguous().cpu().numpy():
            yield Image.fromarray(one)
