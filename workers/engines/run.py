"""What an engine sees of the world: a `Run`. It has not heard of Celery, Postgres, Redis or S3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from framewright.jobs import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a video output must turn out to be; `workers.media.gate` decodes all of it to see.

    `fps` is an exact rational such as "30000/1001". `codec` is "hevc" or "h264"; None asks nothing.
    `black` says that an all-black clip is right, because its source was black.
    """

    width: int
    height: int
    frames: int
    fps: str
    duration_s: float
    codec: str | None = None
    black: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One finished file in the workdir. The first of the list is the primary one.

    `expect` is what the gate checks a video against; None means that the file is not a video. `meta` joins what the
    gate measured in the artifact's meta.
    """

    name: str
    path: Path
    content_type: str
    expect: Expected | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One attempt at one step.

    `params` are the step's normalised parameters. `inputs` are local files under the names of the plan; "images" is a
    list. `workdir` is private to the attempt, empty apart from what a resume brought, and gone afterwards. `attempt`
    starts at 1.

    `report` takes a full snapshot and is cheap enough to call for every frame. `preview(bytes, mime, width, height)`
    shows a small picture to whoever watches and may drop it. `checkpoint(state, files)` lets a later attempt go on
    from here: it finds `state` as `resume` and the files, under their names, in its workdir. `stop` raises `Canceled`
    or `Yielded` once the run should end, so engines call it at every boundary and between calls that take long; it
    does not interrupt a call that is already under way.
    """

    job: str
    params: Mapping[str, Any]
    inputs: Mapping[str, Path | list[Path]]
    workdir: Path
    report: Callable[[Progress], None]
    preview: Callable[[bytes, str, int, int], None]
    checkpoint: Callable[[dict[str, Any], list[Path]], None]
    stop: Callable[[], None]
    step: str = ""
    attempt: int = 1
    resume: Mapping[str, Any] | None = None
    ffmpeg: Path | None = None
    max_pixels: int = 33_177_600


class Engine(Protocol):
    """Turns inputs and params into files.

    `run` raises `BadInput` (naming the field) when only decoding could tell that an input is unusable, `Canceled` or
    `Yielded` from `stop`, `OSError` for a full or broken disk, and `EngineError` for everything else it foresaw.
    """

    name: ClassVar[str]

    def run(self, run: Run) -> list[Output]: ...
