"""The facts of a diffusion model: which diffusers pipelines run it, from which weights, and how they are called."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from framewright.catalogue.computing import Grid, Transformer, UNet
from framewright.params import Slot

Task = Literal["t2v", "i2v", "first-last", "keyframes", "v2v", "control", "character"]
"""From text; from a first image; from a first and a last; from images at any frame; from a video; from a control video,
mask and reference images; from a character's image with pose and face videos."""
Layout = Literal["bcfhw", "bfchw", "packed"]
Cache = Literal["first-block", "taylor-lite", "pyramid"]
VARIANTS = ("*.fp16.*", "*.bf16.*", "*.fp8.*")
"""Files of other precisions than the usual one: the same weights once more."""
SCALES = ("guidance", "guidance_2")
"""The params that set a row's guidance scales, in their order."""
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_NO_SLOTS: Mapping[Slot, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Repo:
    """A repository of weights on a hub. `revision` is a commit (40 hex digits); None is fixed at the first pull.

    `files` are the patterns that are fetched and `without` those that are not, although they match; nothing but
    safetensors and their configuration is ever taken. What lies in the root of a repository is another layout of the
    same weights, mostly several times over. `single` is the one file of that layout that is taken, where there is no
    other: it holds denoiser and VAE, and the row's `base` the rest.
    """

    id: str
    revision: str | None = None
    files: tuple[str, ...] = ("model_index.json", "*/*.safetensors", "*/*.json", "*/*.txt", "*/*.model", "*/*.jinja")
    without: tuple[str, ...] = VARIANTS
    single: str | None = None
    gated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """One guidance scale: the pipeline's argument (or "guider", where it has an object instead) and its range."""

    argument: str
    default: float
    least: float = 1.0
    most: float = 20.0
    says: str = "How closely the clip follows the prompt; much of it costs naturalness."


@dataclass(frozen=True, slots=True, kw_only=True)
class Strength:
    """How much of a video given may change, 0 to 1, and the pipeline's argument for it.

    An argument that says how much is `kept` takes 1 minus this.
    """

    argument: str
    default: float
    kept: bool = False

    def steps(self, asked: int, strength: float) -> int:
        """How many of so many denoise steps are taken: all of them where the argument says what is kept."""
        return asked if self.kept else min(int(asked * strength), asked)

    def least(self, asked: int) -> float:
        """The least strength in thousandths at which a step is taken."""
        return next(part / 1000 for part in range(1, 1001) if self.steps(asked, part / 1000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """A number that only this model has: the param's name, the pipeline's argument, and its range."""

    name: str
    argument: str
    default: float
    least: float
    most: float
    whole: bool = False
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """One way to give a model its inputs: slots that must be there and slots that may, each with its argument."""

    needs: Mapping[Slot, str] = field(default_factory=lambda: _NO_SLOTS)
    may: Mapping[Slot, str] = field(default_factory=lambda: _NO_SLOTS)

    def arguments(self) -> Mapping[Slot, str]:
        """Slot -> the pipeline's argument for what is given there."""
        return {**self.needs, **self.may}


NOTHING = (Slots(),)
IMAGE = (Slots(needs=MappingProxyType({"image": "image"})),)
FIRST_LAST = (Slots(needs=MappingProxyType({"image": "image", "last_image": "last_image"})),)
FIRST_LAST_CONDITIONS = (Slots(needs=MappingProxyType({"image": "conditions", "last_image": "conditions"})),)
KEYFRAMES = (Slots(needs=MappingProxyType({"keyframes": "conditions"})),)
VIDEO = (Slots(needs=MappingProxyType({"video": "video"})),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upscale:
    """A second stage: the latents of a clip made at `first` of the size are enlarged by `factor` and refined.

    Refining takes the last `strength` of the noise away again in `steps`; the frames are then scaled to the size asked.
    `adain` (0 to 1) gives the enlarged latents the statistics of the small ones, `tone_map` (0 to 1) calms extremes.
    `call` are arguments of the second pass that differ from those of the first.
    """

    repo: Repo
    pipeline: str
    first: Fraction
    factor: int
    strength: float
    steps: int
    adain: float = 0.0
    tone_map: float = 0.0
    call: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)

    @property
    def refining(self) -> int:
        """Steps that the second pass takes: the last ones of its schedule."""
        return min(int(self.steps * self.strength), self.steps)

    def smaller(self, size: tuple[int, int], multiple: int) -> tuple[int, int]:
        """The size of the first pass: whole latents of `multiple` pixels, not above `first` of the size asked."""
        width, height = (max(int(side * self.first) // multiple, 1) * multiple for side in size)
        return width, height


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Denoise steps. No model here can do with one; where `least` is `most`, they are not for the request to say.

    `trained` is how many noise levels the model was trained at, where its scheduler goes down them in whole strides:
    rounding then leaves noise in the clip after some counts, and those are not to be had.
    """

    default: int
    least: int = 2
    most: int = 100
    trained: int | None = None

    def nearest(self, asked: int) -> int:
        """The nearest count of steps that leaves no noise, the larger one of two."""
        able = [count for count in range(self.least, self.most + 1) if not self._leaves_noise(count)]
        return min(able, key=lambda count: (abs(count - asked), -count), default=asked)

    def _leaves_noise(self, count: int) -> bool:
        if self.trained is None:
            return False
        # As the scheduler does: its last timestep less one stride must lie below the first of all, and floating point
        # must not put one more timestep after it.
        stride = self.trained / count
        return round(stride) - 1 >= self.trained // count or ceil(self.trained / stride) != count


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """The scheduler, and changes to its configuration.

    `overrides` go into its configuration. `shift` is the name of its flow shift, whose value depends on the short side
    of the clip: the entry of the largest side (px) not above it, or the first.
    """

    kind: str
    """The diffusers class; where the repository names another one, this is made from its configuration."""
    overrides: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    shift: str | None = None
    shifts: tuple[tuple[int, float], ...] = ()

    def shift_for(self, short_side: int) -> float | None:
        """The shift for a clip whose short side is so many pixels; None where the repository's own stays."""
        fitting = [value for side, value in self.shifts if side <= short_side] or [
            value for _, value in self.shifts[:1]
        ]
        return fitting[-1] if fitting else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Latents:
    """How latents lie in memory, and how many pixels and frames one of them stands for."""

    layout: Layout
    channels: int
    spatial: int
    temporal: int

    def grid(self, size: tuple[int, int], frames: int) -> Grid:
        """Latent frames, rows and columns of a clip of that size (width, height)."""
        return (frames - 1) // self.temporal + 1, size[1] // self.spatial, size[0] // self.spatial


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """How LoRA weights are loaded: the pipeline's mixin, and whether the second denoiser takes some of its own."""

    mixin: str
    second: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How a model is placed on a GPU of at least `vram_mb`: the first of a row's profiles that fits is taken.

    `offload`: none, whole models, groups of blocks, or leaves. `fp8` stores the denoiser's weights in 8 bits.
    """

    name: str
    vram_mb: int
    offload: Literal["none", "model", "group", "leaf"] = "none"
    fp8: bool = False
    tiling: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Diffusion:
    """Everything about a diffusion model that is not common to all rows.

    `pipelines` names the diffusers class of each task; the one of `load_as` reads the weights, the others share them.
    `slots` says what may be given for each task, and which task it is follows from what is given. `base` holds the
    components that `repo` lacks. `call` are fixed arguments of every call, the noise levels of a distilled model among
    them. `schedulers` is how many the pipeline steps. It is asked for `dropped` frames more than come out. `fps` is the
    rate the model was trained at.
    """

    family: Literal["ltx", "ltx2", "wan", "hunyuan", "hunyuan15", "cogvideox", "mochi", "svd", "animatediff"]
    pipelines: Mapping[Task, str]
    slots: Mapping[Task, tuple[Slots, ...]]
    load_as: Task
    repo: Repo
    base: Repo | None = None
    folder: Path | None = None
    """Where the weights lie already: nothing is pulled then."""
    upscale: Upscale | None = None
    fps: Fraction
    steps: Steps
    guidance: tuple[Guidance, ...] = ()
    strength: Strength | None = None
    knobs: tuple[Knob, ...] = ()
    prompt: bool = True
    max_tokens: int | None = None
    negative: str | None = None
    """The default negative prompt; None where the pipeline takes none."""
    scheduler: Scheduler
    schedulers: int = 1
    call: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    dtypes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({"default": "bfloat16"}))
    latents: Latents
    denoiser: Transformer | UNet
    """One forward of it; of two that take turns, either."""
    guided: bool = True
    """Guidance above 1 takes a second forward in each step, as it does where it is not built into the model."""
    perturbed: int = 0
    """Forwards that each step takes besides, for other kinds of guidance."""
    snaps: bool = False
    """Keyframes go where a latent begins: to frame 0, and from frame 1 on to every `temporal` one."""
    dropped: int = 0
    tiling: bool = True
    caches: tuple[Cache, ...] = ()
    lora: Lora | None = None
    audio: bool = False
    audio_window: int | None = None
    """Samples of each spectrum that the audio VAE was trained on; None where no sound can be given."""
    profiles: tuple[Profile, ...]

    def task_of(self, given: Collection[str]) -> Task | None:
        """What is to be done with inputs in these slots: the task that uses all of them; None when there is none."""
        for task, ways in self.slots.items():
            for way in ways:
                if way.needs.keys() <= set(given) <= way.arguments().keys():
                    return task
        return None

    def forwards(self, params: Mapping[str, Any]) -> int:
        """Forwards of the denoiser in each step."""
        return 1 + int(self.guided and params["guidance"] > 1) + self.perturbed

    def segments(self, frames: int) -> int:
        """How often the pipeline runs its loop: a long clip is made in segments that share frames."""
        length: int | None = self.call.get("segment_frame_length")
        if length is None:
            return 1
        shared: int = self.call.get("prev_segment_conditioning_frames", 1)
        return max(1, -(-(frames - shared) // (length - shared)))

    def keyframe(self, frame: int) -> int:
        """The frame that a picture asked for at `frame` really stands at."""
        if not self.snaps or frame == 0:
            return frame
        return (frame - 1) // self.latents.temporal * self.latents.temporal + 1
