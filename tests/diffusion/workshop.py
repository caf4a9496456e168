"""Tiny models through plan and engine: rows made known as operators do it, runs, and their clips before encoding.

A `Case` says which tiny model stands for which row, and what stock diffusers has to be called with for the same clip:
that is written out by hand, so that nothing of ours decides what ours is judged by.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import diffusers
import numpy as np
import tiny
import torch
from PIL import Image
from runs import Watched, watched
from safetensors.torch import save_file
from tiny_rows import inline

from framewright import catalogue, ids
from framewright.given import AssetFacts
from framewright.models import headers
from framewright.models.home import Home
from framewright.params import JobRequest
from framewright.plan import Plan, plan
from workers.diffusion.running import Generated
from workers.engines import diffusion as engine
from workers.engines.diffusion import Diffusion
from workers.engines.run import Output

STEPS, SEED, PROMPT = 4, 7, "a cat dancing"
_KINDS = {".png": ("image", "image/png"), ".mkv": ("video", "video/x-matroska")}


@dataclass(frozen=True, kw_only=True)
class Case:
    """`slots`: what is given, `picture` or `film` and a number. `stock`, `pictures`, `scheduler` and its `changes` are
    of the stock call, `forwards` are those of a step. `call` stands in the row besides, where a tiny network needs it.
    `dtypes` is the precision of its parts: 32 bits where the question is not what a row's own precision makes of it.
    """

    tiny: str
    like: str
    kind: str = "generate"
    pipeline: str | None = None
    size: tuple[int, int] = (16, 16)
    frames: int = 9
    fps: str = "16"
    max_tokens: int | None = None
    toml: str = ""
    slots: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    stock: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)
    shaped: bool = True
    scheduler: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    steps: int = STEPS
    forwards: int = 2
    call: Mapping[str, Any] = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=lambda: {"default": "float32"})

    @property
    def name(self) -> str:
        return f"{self.tiny}-{self.like}"[:64]

    @property
    def label(self) -> str:
        """For a test's id: the model and what it is given."""
        return "-".join([self.name, *self.slots])


@dataclass
class Made:
    """What came of one run."""

    outputs: list[Output]
    watched: Watched
    generated: Generated

    @property
    def frames(self) -> np.ndarray:
        return self.generated.frames.float().cpu().numpy()

    @property
    def meta(self) -> Mapping[str, Any]:
        return self.outputs[0].meta


class Workshop:
    """Models, pictures and runs below one folder."""

    def __init__(self, folder: Path, build: Callable[[str], Path]) -> None:
        self.folder, self._build = folder, build
        self.home = Home(folder / "home")
        self._count = 0

    def install(self, *cases: Case, path: Path | None = None) -> None:
        """Makes the cases' rows known, and no others of an operator; `path` is where their weights lie instead."""
        entries = [self._entry(case, path or self._build(case.tiny)) for case in cases]
        file = self.folder / "catalogue.toml"
        file.write_text("\n".join(entries))
        catalogue.install(file)

    def plan(self, case: Case, **params: Any) -> tuple[Plan, dict[str, Path | list[Path]]]:
        """The plan of a request for the case, and the files of its inputs."""
        width, height = case.size
        asked = {"steps": STEPS, "seed": SEED, "size": f"{width}x{height}", "frames": case.frames, "fps": int(case.fps)}
        asked |= {"prompt": PROMPT} if catalogue.named(case.name).params.model_fields.get("prompt") else {}
        asked |= {**case.params, **params}
        asked = {name: value for name, value in asked.items() if value is not None}
        given: dict[str, Any] = {}
        assets: dict[str, AssetFacts] = {}
        files: dict[str, Path | list[Path]] = {}
        for slot, what in case.slots.items():
            path = self.file(what, case)
            key, facts = _asset(path, case)
            assets[key] = facts
            many = slot in {"keyframes", "reference_images"}
            given[slot] = {"keyframes": [{"image": key, "frame": 4}], "reference_images": [key]}.get(slot, key)
            files[slot] = [path] if many else path
        body = {"kind": case.kind, "model": case.name, "params": asked, "input": given}
        return plan(JobRequest.model_validate(body), assets), files

    def file(self, what: str, case: Case) -> Path:
        """A picture or a film of the case's size that has no loss."""
        width, height = case.size
        if what.startswith("film"):
            path = self.folder / f"{what}-{width}x{height}-{case.frames}-{case.fps}.mkv"
            if not path.exists():
                _film(path, tiny.film(case.frames, width, height), case.fps)
            return path
        path = self.folder / f"{what}-{width}x{height}.png"
        if not path.exists():
            tiny.picture(width, height, seed=int(what.removeprefix("picture"))).save(path)
        return path

    def watched(
        self,
        case: Case,
        *,
        resume: Mapping[str, Any] | None = None,
        snapshot: Path | None = None,
        stop: Callable[[Watched], None] = lambda _: None,
        more: Mapping[str, Path | list[Path]] | None = None,
        **params: Any,
    ) -> Watched:
        """A run that has not begun, in a new folder; with `snapshot` in it for a resume."""
        planned, files = self.plan(case, **params)
        self._count += 1
        workdir = self.folder / f"work-{self._count}"
        seen = watched(
            workdir,
            planned.steps[0].params,
            {**files, **(more or {})},
            stop=stop,
            model=case.name,
            models=self.home,
            resume=resume,
        )
        if snapshot is not None:
            shutil.copy(snapshot, workdir / engine.SNAPSHOT)
        kept, emit = workdir.with_suffix(".kept"), seen.run.checkpoint

        def keep(state: dict[str, Any], paths: list[Path]) -> None:
            kept.mkdir(exist_ok=True)
            shutil.copy(paths[0], kept / f"{state['step']}.pt")
            emit(state, paths)

        seen.run = replace(seen.run, checkpoint=keep)
        return seen

    def run(self, case: Case, diffusion: Diffusion | None = None, **how: Any) -> Made:
        """One run of the case by an engine, a new one if none is given."""
        seen = self.watched(case, **how)
        return self.go(seen, diffusion or Diffusion())

    def go(self, seen: Watched, diffusion: Diffusion) -> Made:
        with tapped() as taken:
            outputs = diffusion.run(seen.run)
        return Made(outputs, seen, taken[-1])

    def kept(self, made: Made, step: int) -> Path:
        """The snapshot that a run handed on after `step`."""
        return made.watched.run.workdir.with_suffix(".kept") / f"{step}.pt"

    def resumed(self, case: Case, first: Made, step: int, diffusion: Diffusion | None = None, **how: Any) -> Made:
        """A run that goes on from the checkpoint that `first` emitted after `step`."""
        state = first.watched.checkpoints[step - 1]
        assert state["step"] == step
        return self.run(case, diffusion, resume=state, snapshot=self.kept(first, step), **how)

    def stock(self, case: Case, change: Callable[[Any], object] = lambda _: None, **more: Any) -> np.ndarray:
        """The frames of diffusers' own call, of a pipeline that `change` did something to."""
        pipe = self.pipe(case)
        change(pipe)
        width, height = case.size
        words = {"prompt": PROMPT, **({"max_sequence_length": case.max_tokens} if case.max_tokens else {})}
        shape = {"width": width, "height": height, "num_frames": case.frames} if case.shaped else {}
        asked = {"num_inference_steps": STEPS, "output_type": "pt", **words, **shape, **case.stock, **more}
        asked |= {name: self._given(what, case) for name, what in case.pictures.items()}
        asked = {name: value for name, value in asked.items() if value is not None}
        answer = pipe(**asked, generator=tiny.seeded(SEED))
        found: np.ndarray = answer.frames[0].float().numpy()
        return found

    def pipe_folder(self, case: Case) -> Path:
        return self._build(case.tiny)

    def pipe(self, case: Case) -> Any:
        """Diffusers' own pipeline, with the scheduler that it should have."""
        kind = getattr(diffusers, case.pipeline or tiny.FAMILIES[case.tiny].pipeline)
        dtypes = {part: getattr(torch, name) for part, name in case.dtypes.items()}
        pipe = kind.from_pretrained(self._build(case.tiny), dtype=dtypes, local_files_only=True, use_safetensors=True)
        pipe.set_progress_bar_config(disable=True)
        if case.scheduler is not None:
            scheduler = getattr(diffusers, case.scheduler)
            pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **case.changes)
        return pipe

    def _given(self, what: str, case: Case) -> Any:
        path = self.file(what, case)
        return Image.open(path).convert("RGB") if path.suffix == ".png" else tiny.film(case.frames, *case.size)

    def _entry(self, case: Case, path: Path) -> str:
        width, height = case.size
        tokens = f"max_tokens = {case.max_tokens}\n" if case.max_tokens else ""
        row = catalogue.named(case.like)
        frames = f"[model.frames]\nleast = {row.frames.offset or 1}\nmost = {max(row.frames.most, 0)}\n"
        sizes = f"[model.size]\nmultiple = {min(row.size.multiple, width)}\nleast = {min(width, height)}\n"
        sizes += f"base = {width}\n" if row.size.buckets else f'default = "{width}x{height}"\n'
        return (
            f'[[model]]\nname = "{case.name}"\nlike = "{case.like}"\npath = "{path}"\n'
            f'dtype = "{case.dtypes["default"]}"\n'
            f'vram_mb = 0\nlicence = {{ name = "none" }}\n{tokens}call = {inline(case.call)}\n'
            f"{case.toml}{sizes}{frames}"
        )


@contextmanager
def tapped() -> Any:
    """What the engine hands to the encoder while this lasts."""
    taken: list[Generated] = []
    original = engine._written

    def written(*args: Any, **kwargs: Any) -> Any:
        taken.extend(one for one in args if isinstance(one, Generated))
        return original(*args, **kwargs)

    engine._written = written
    try:
        yield taken
    finally:
        engine._written = original


def _film(path: Path, frames: list[Image.Image], fps: str) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=int(fps))
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "bgr0"
        for one in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(one).reformat(format="bgr0")))
        container.mux(stream.encode())


def _asset(path: Path, case: Case) -> tuple[str, AssetFacts]:
    unique = ids.uuid7()
    raw = path.read_bytes()
    kind, content_type = _KINDS.get(path.suffix, ("other", headers.SAFETENSORS))
    facts = AssetFacts(
        id=unique,
        content_type=content_type,
        kind=kind,  # type: ignore[arg-type]
        size=len(raw),
        width=case.size[0] if kind != "other" else None,
        height=case.size[1] if kind != "other" else None,
        frames=case.frames if kind == "video" else None,
        fps=f"{case.fps}/1" if kind == "video" else None,
        duration_s=case.frames / int(case.fps) if kind == "video" else None,
        key=f"assets/{unique.hex}",
        sha256=hashlib.sha256(raw).hexdigest(),
    )
    return ids.public(ids.ASSET, unique), facts


def equal(one: np.ndarray | torch.Tensor, other: np.ndarray | torch.Tensor) -> bool:
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


def lora(path: Path, keys: Mapping[str, tuple[int, int]], *, value: float | None = None, rank: int = 2) -> Path:
    """LoRA weights for layers of so many channels (in, out), in the form that diffusers writes."""
    random = torch.Generator().manual_seed(len(path.name))

    def numbers(*shape: int) -> torch.Tensor:
        made = torch.randn(shape, generator=random)
        return made if value is None else torch.full(shape, value)

    tensors: dict[str, torch.Tensor] = {}
    for key, (into, out) in keys.items():
        tensors |= {f"{key}.lora_A.weight": numbers(rank, into), f"{key}.lora_B.weight": numbers(out, rank)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path
