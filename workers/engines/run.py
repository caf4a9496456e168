"""What an engine sees of the world: a `Run`. It has not heard of Celery, Postgres, Redis or S3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from framewright.jobs import Progress
from framewright.models.home import Home


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What the sound of an output must turn out to be: samples a second, channels, and whether it is silence."""

    rate: int
    channels: int
    duration_s: float
    silent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a video output must turn out to be; `workers.media.gate` decodes all of it to see.

    `fps` is an exact rational such as "30000/1001". `codec` is "hevc", "h264", "prores", "vp9", "av1", "gif" or "png"
    (a ZIP of frames); None asks nothing. `black` says that an all-black clip is right, because its source was black.
    `sound` is None for a clip that has none.
    """

    width: int
    height: int
    frames: int
    fps: str
    duration_s: float
    codec: str | None = None
    black: bool = False
    sound: Heard | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One finished file in the workdir. The first of the list is the primary one.

    `expect` is what the gate checks a video against, and `heard` a file of sound alone; without either it is another
    file. `meta` joins what the gate measured in the artifact's meta.
    """

    name: str
    path: Path
    content_type: str
    expect: Expected | None = None
    heard: Heard | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


def _unheard(step: int, exact: bool) -> None:
    """For runs whose attempt nobody keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One attempt at one step.

    `params` are the step's normalised parameters. `inputs` are local files under the names of the plan; "images" is a
    list. `workdir` is private to the attempt, empty apart from what a resume brought, and gone afterwards. `attempt`
    starts at 1.

    `model` is the name of a catalogue row, and `models` where weights lie, for the engines that need them. `profile` is
    the name of the memory profile to hold the model in; None where there is no GPU.

    `report` takes a full snapshot and is cheap enough to call for every frame. `preview(bytes, mime, width, height)`
    shows a small picture to whoever watches and may drop it. `checkpoint(state, files)` lets a later attempt go on
    from here: it finds `state` as `resume` and the files, under their names, in its workdir. The files are taken away;
    where the disk is full, the checkpoint is lost and nothing else. The later attempt calls `resumed(step, exact)`: the
    finished step that it goes on from (0 when it could not use what it found), and whether what follows is the same to
    the bit. `stop` raises `Canceled` or `Yielded` once the run should end, so engines call it at every boundary and
    between calls that take long; it does not interrupt a call that is already under way.
    """

    job: str
    params: Mapping[str, Any]
    inputs: Mapping[str, Path | list[Path]]
    workdir: Path
    report: Callable[[Progress], None]
    preview: Callable[[bytes, str, int, int], None]
    checkpoint: Callable[[dict[str, Any], list[Path]], None]
    stop: Callable[[], None]
    resumed: Callable[[int, bool], None] = _unheard
    step: str = ""
    attempt: int = 1
    resume: Mapping[str, Any] | None = None
    model: str = ""
    models: Home | None = None
    profile: str | None = None
    ffmpeg: Path | None = None
    max_pixels: int = 33_177_600


class Engine(Protocol):
    """Turns inputs and params into files.

    `run` raises `BadInput` (naming the field) when only decoding could tell that an input is unusable, `Canceled` or
    `Yielded` from `stop`, `OSError` for a full or broken disk, and `EngineError` for everything else it foresaw.
    """

    name: ClassVar[str]

    def run(self, run: Run) -> list[Output]: ...
