"""A model in memory: its weights read once from disk, and a pipeline for each task over the same modules."""

from __future__ import annotations

import gc
import inspect
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

# Before diffusers is imported: nothing here may ask a hub, and nobody reads its bars and advice in a log.
os.environ.update(
    HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", DIFFUSERS_VERBOSITY="error"
)

import diffusers
import torch
from safetensors import SafetensorError

from framewright.catalogue.diffusion import Diffusion, Profile, Task
from framewright.errors import EngineError
from workers.diffusion.refining import Upscaler

STORED: Final = torch.float8_e4m3fn
"""What weights are kept in where a profile says 8 bits."""
# What the libraries raise over weights and configurations that do not go together.
_UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError)


class Loaded:
    """The pipelines of one model on one device.

    `folder` holds its repository, `base` that of the model it extends where it extends one. Nothing but safetensors is
    read. `mend` is what helps against weights that are no good, the end of a sentence. To unload a model, end the
    process: not all memory comes back otherwise (diffusers issues 9624 and 5270).
    """

    def __init__(
        self,
        facts: Diffusion,
        folder: Path,
        *,
        base: Path | None = None,
        profile: Profile,
        device: str = "cuda",
        revision: str = "",
        name: str = "this model",
        mend: str = "put other ones there",
    ) -> None:
        self.facts, self.device, self.revision = facts, torch.device(device), revision
        self.name, self.mend = name, mend
        self.profile, self._folder = profile, folder
        self._upscaler: Upscaler | None = None
        try:
            first = _read(facts, folder, base)
        except _UNREADABLE as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise EngineError(
                f"the weights of {name} in {folder} do not make a model ({_first_line(error)}); {mend}"
            ) from error
        self._config: Mapping[str, Any] = dict(first.scheduler.config)
        self._pipes: dict[Task, Any] = {facts.load_as: first}
        first.set_progress_bar_config(disable=True)
        self._place(first)

    def pipe(self, task: Task, short_side: int, shift: float | None = None) -> Any:
        """The pipeline of `task`, with a new scheduler for a clip of that short side (px).

        `shift` is the flow shift that was asked for, instead of the one that suits the size.
        """
        pipe = self._pipes.get(task) or self._sharing(task)
        pipe.scheduler = self._scheduler_for(short_side, shift)
        return pipe

    @property
    def tiles(self) -> bool:
        """Whether the VAE works in tiles."""
        return bool(getattr(self._vae, "use_tiling", False))

    @contextmanager
    def tiled(self) -> Iterator[None]:
        """While it lasts, the VAE works in tiles if it knows any: slower, in a fraction of the memory."""
        before = {name: value for name, value in vars(self._vae).items() if name in {"use_tiling", "use_slicing"}}
        self._tile()
        try:
            yield
        finally:
            vars(self._vae).update(before)

    def upscaler(self) -> Upscaler:
        """The network of the second stage; `EngineError` where its weights are not there or cannot be read."""
        if self._upscaler is None:
            assert self.facts.upscale is not None  # noqa: S101 - whoever asks has looked
            try:
                pipe = self._pipes[self.facts.load_as]
                self._upscaler = Upscaler(self.facts.upscale, self._folder / "upscale", pipe, self.device)
            except _UNREADABLE as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                raise EngineError(
                    f"the weights of the upscaler of {self.name} cannot be read ({_first_line(error)}); {self.mend}"
                ) from error
        return self._upscaler

    def free(self) -> None:
        """Gives cached memory of the device back."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _sharing(self, task: Task) -> Any:
        name = self.facts.pipelines.get(task)
        if name is None:
            raise EngineError(f"this model has no pipeline for {task}")
        first = self._pipes[self.facts.load_as]
        pipe = next((pipe for pipe in self._pipes.values() if type(pipe).__name__ == name), None)
        if pipe is None:
            pipe = _beside(first, _kind(name))
            pipe.set_progress_bar_config(disable=True)
            if self.profile.offload == "model":
                # Only a pipeline that has put the hooks there itself moves what it used back when its run ends.
                pipe.enable_model_cpu_offload(device=self.device)
        self._pipes[task] = pipe
        return pipe

    @property
    def _vae(self) -> Any:
        return self._pipes[self.facts.load_as].vae

    def _tile(self) -> None:
        if self.facts.tiling:
            self._vae.enable_tiling()
            self._vae.enable_slicing()

    def _scheduler_for(self, short_side: int, asked: float | None) -> Any:
        rule = self.facts.scheduler
        changes = dict(rule.overrides)
        shift = rule.shift_for(short_side) if asked is None else asked
        if rule.shift is not None and shift is not None:
            changes[rule.shift] = shift
        return _kind(rule.kind).from_config(self._config, **changes)

    def _place(self, pipe: Any) -> None:
        profile = self.profile
        if profile.fp8:
            for name in ("transformer", "transformer_2"):
                if (module := getattr(pipe, name, None)) is not None:
                    _store_in_eight_bits(module, getattr(torch, self.facts.dtypes["default"]))
        match profile.offload:
            case "none":
                pipe.to(self.device)
            case "model":
                pipe.enable_model_cpu_offload(device=self.device)
            case "group" | "leaf":
                pipe.enable_group_offload(
                    onload_device=self.device,
                    offload_type="block_level" if profile.offload == "group" else "leaf_level",
                    num_blocks_per_group=1,
                    use_stream=self.device.type == "cuda",
                    # Blocks come when `forward` is called, and nobody calls that of a VAE.
                    exclude_modules=[name for name in pipe.components if name.endswith("vae")]
                    if profile.offload == "group"
                    else None,
                )
        if profile.tiling:
            self._tile()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def _kind(name: str) -> Any:
    kind = getattr(diffusers, name, None)
    if kind is None:
        raise EngineError(f"the installed diffusers {diffusers.__version__} has no {name}")
    return kind


def _beside(first: Any, kind: Any) -> Any:
    """A pipeline of that class over the modules of `first`, as they are: `from_pipe` of diffusers casts them all."""
    held = {**first.config, **first.components}
    return kind(**{name: held[name] for name in inspect.signature(kind.__init__).parameters if name in held})


def _store_in_eight_bits(module: Any, computed: torch.dtype) -> None:
    """The weights of most layers become 8 bits wide, and are widened at each call."""
    module.enable_layerwise_casting(storage_dtype=STORED, compute_dtype=computed)
    for layer in module.modules():
        if any(weight.dtype == STORED for weight in layer.parameters(recurse=False)):
            # In what a layer says it computes in, peft makes adapters for it; otherwise in what it is stored in.
            layer.compute_dtype = computed


def _read(facts: Diffusion, folder: Path, base: Path | None) -> Any:
    """The first pipeline, read from disk. Weights keep the precision they need: cast while reading, never after."""
    dtypes = {part: getattr(torch, name) for part, name in facts.dtypes.items()}
    kind = _kind(facts.pipelines[facts.load_as])
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    if base is None:
        return kind.from_pretrained(folder, dtype=dtypes, **options)
    if facts.repo.single is None:
        adapter = _kind("MotionAdapter").from_pretrained(folder, dtype=dtypes["default"], **options)
        return kind.from_pretrained(base, motion_adapter=adapter, dtype=dtypes, **options)
    parts = {
        name: _one_file(base, folder / facts.repo.single, name, dtypes.get(name, dtypes["default"]))
        for name in ("transformer", "vae")
    }
    return kind.from_pretrained(base, dtype=dtypes, **parts, **options)


def _one_file(base: Path, file: Path, part: str, dtype: torch.dtype) -> Any:
    """A part out of a file that holds several, of the class that the base has for it."""
    said = json.loads((base / "model_index.json").read_text())[part]
    return _kind(said[1]).from_single_file(str(file), config=str(base), subfolder=part, dtype=dtype)
