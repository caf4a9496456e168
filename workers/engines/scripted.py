"""`scripted`: an engine for tests. Its frames say who made them, and it misbehaves when the params tell it to.

`crash_at`, `hang_at`, `oom_at`, `raise_at` and `unfit_at` name the step (from 1) at which it happens, `fill_disk` comes
before the first; `stubborn`, `no_progress` and `garbage` hold for the whole run. All of them only on attempts up to
`until_attempt`.
"""

from __future__ import annotations

import errno
import os
import signal
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from framewright.errors import EngineError, ModelNotReady
from framewright.jobs import Phase, Progress
from framewright.params import parse_size
from workers.engines.run import Expected, Output, Run
from workers.media import clip
from workers.media.clip import Shape

_NAME = 32
_PAYLOAD = 16 + 2 + 3 + _NAME
_COLUMNS, _ROWS = 24, 19  # 8 x (payload and CRC) blocks
_DARK, _LIGHT = 24, 232
_SLICE_S = 0.02
_STEPS_PART = 0.5  # of the fraction; the frames are the rest


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a frame says of itself: the job's UUID in 32 hex digits, the step's name, attempt and index (from 0)."""

    job: str
    step: str
    attempt: int
    index: int


class Scripted:
    name: ClassVar[str] = "scripted"

    def run(self, run: Run) -> list[Output]:
        script = _Script(run)
        script.work()
        size, fps = parse_size(run.params["size"]), Fraction(run.params["fps"])
        shape = Shape(*size, fps, int(run.params["frames"]), begun=_STEPS_PART)
        if script.bad("garbage"):
            return [_garbage(run, shape)]
        return clip.write(script.as_told(), shape, partial(_frames, run, shape))


class _Script:
    """The steps before the frames: so many, so long each, with whatever is to go wrong."""

    def __init__(self, run: Run) -> None:
        self._run, self._params = run, run.params
        self._steps = int(self._params.get("steps") or 1)
        self._stop: Callable[[], None] = _nothing if self.bad("stubborn") else run.stop

    def bad(self, name: str) -> Any:
        """The misbehaviour of that name, if this attempt is to show it."""
        return self._params.get(name) if self._run.attempt <= int(self._params.get("until_attempt") or 1) else None

    def as_told(self) -> Run:
        """The run, without the ears and the voice that the script takes away."""
        return replace(self._run, stop=self._stop, report=_nothing if self.bad("no_progress") else self._run.report)

    def work(self) -> None:
        if self.bad("fill_disk"):
            self._fill_disk()
        done = int((self._run.resume or {}).get("step", 0))
        if self._run.resume is not None:
            self._run.resumed(done, True)
        every = int(self._params.get("preview_every") or 0)
        for step in range(done + 1, self._steps + 1):
            self._misbehave(step)
            self._pass(float(self._params.get("step_ms") or 0) / 1000)
            if not self.bad("no_progress"):
                self._run.report(
                    Progress(_STEPS_PART * step / self._steps, Phase.DENOISING, step=step, steps=self._steps)
                )
            if every and step % every == 0:
                picture = _picture(stamp_of(self._run, step), parse_size(self._params["size"]))
                self._run.preview(*_packed(picture))
            if step < self._steps:
                self._run.checkpoint({"step": step}, self._latent(step))

    def _latent(self, step: int) -> list[Path]:
        """What a checkpoint carries: nothing, or a file of the size that was asked for."""
        kilobytes = int(self._params.get("checkpoint_kb") or 0)
        if not kilobytes:
            return []
        path = self._run.workdir / "latent.bin"
        path.write_bytes(step.to_bytes(2) * 512 * kilobytes)
        return [path]

    def _pass(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._stop()
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _SLICE_S))
            self._stop()

    def _misbehave(self, step: int) -> None:
        if step == self.bad("crash_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        if step == self.bad("hang_at"):
            while True:
                self._pass(60.0)
        if step == self.bad("oom_at"):
            raise MemoryError("the script asked for more memory than there is")
        if step == self.bad("raise_at"):
            raise EngineError("the script asked for an error")
        if step == self.bad("unfit_at"):
            raise ModelNotReady("this worker lacks the weights; run: framewright models pull scripted")

    def _fill_disk(self) -> None:
        """Write until the scratch space is used up; after 4 GiB it is taken as full, and so said."""
        block = bytes(1 << 20)
        with (self._run.workdir / "ballast").open("wb") as file:
            for _ in range(4096):
                self._stop()
                file.write(block)
        raise OSError(errno.ENOSPC, "the scratch disk is full")


def _nothing(*_: object) -> None:
    return None


def _frames(run: Run, shape: Shape) -> Iterator[Image.Image]:
    for index in range(shape.frames):
        yield _picture(stamp_of(run, index), (shape.width, shape.height))


def stamp_of(run: Run, index: int) -> Stamp:
    """The stamp of a frame of this run."""
    return Stamp(UUID(run.job.rpartition("_")[2]).hex, run.step, run.attempt, index)


def stamp(mark: Stamp, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A grey frame whose blocks spell `mark`, with a CRC; from 96x80 pixels on it survives encoding (`read_stamp`)."""
    name = mark.step.encode("ascii")[:_NAME].ljust(_NAME, b"\0")
    payload = UUID(mark.job).bytes + mark.attempt.to_bytes(2) + mark.index.to_bytes(3) + name
    bits = np.unpackbits(np.frombuffer(payload + zlib.crc32(payload).to_bytes(4), np.uint8))
    blocks = np.where(bits.reshape(_ROWS, _COLUMNS) == 1, _LIGHT, _DARK).astype(np.uint8)
    rows = np.arange(size[1]) * _ROWS // size[1]
    columns = np.arange(size[0]) * _COLUMNS // size[0]
    return blocks[rows[:, None], columns[None, :]]


def read_stamp(frame: NDArray[Any]) -> Stamp:
    """The stamp in a decoded frame, grey (h, w) or colour (h, w, 3), also after scaling; `ValueError` if unreadable."""
    grey = frame.mean(axis=2) if frame.ndim == 3 else frame
    rows, columns = _middles(grey.shape[0], _ROWS), _middles(grey.shape[1], _COLUMNS)
    levels = np.array([[grey[row, column].mean() for column in columns] for row in rows])
    data = np.packbits((levels > (_DARK + _LIGHT) / 2).ravel()).tobytes()
    payload, check = data[:_PAYLOAD], data[_PAYLOAD:]
    if zlib.crc32(payload).to_bytes(4) != check:
        raise ValueError("the frame carries no stamp that can be read")
    return Stamp(
        UUID(bytes=payload[:16]).hex,
        payload[21:].rstrip(b"\0").decode("ascii"),
        int.from_bytes(payload[16:18]),
        int.from_bytes(payload[18:21]),
    )


def _middles(side: int, blocks: int) -> list[slice]:
    """The inner half of each block along a side, at least a pixel of it."""
    starts = [int((block + 0.25) * side / blocks) for block in range(blocks)]
    return [slice(start, max(start + 1, int(start + side / blocks / 2))) for start in starts]


def _picture(mark: Stamp, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(stamp(mark, size)).convert("RGB")


def _packed(picture: Image.Image) -> tuple[bytes, str, int, int]:
    data, width, height = clip.jpeg(picture, clip.PREVIEW_SIDE, 72)
    return data, "image/jpeg", width, height


def _garbage(run: Run, shape: Shape) -> Output:
    """A file that is no video, under the promise that it is one."""
    path = run.workdir / "video.mp4"
    path.write_bytes(b"this is not a video\n" * 50)
    expect = Expected(
        width=shape.width,
        height=shape.height,
        frames=shape.frames,
        fps=str(run.params["fps"]),
        duration_s=float(shape.frames / shape.fps),
        codec="hevc",
    )
    return Output(name="video", path=path, content_type="video/mp4", expect=expect)
