"""Frames in, finished files out: the clip, its poster, and a small H.264 rendition where the clip is HEVC."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from PIL import Image

from framewright.errors import EngineError
from framewright.jobs import PLAYBACK, POSTER, Phase, Progress
from workers.engines.run import Expected, Output, Run
from workers.media import encoders, ffmpeg, sandbox
from workers.media.encoders import Encoder
from workers.media.ffmpeg import Ffmpeg, FfmpegFailed

PREVIEW_S = 1.0
PREVIEW_SIDE = 384
POSTER_SIDE = 1280
PLAYBACK_LONG, PLAYBACK_SHORT = 1280, 720
_LAST = 0.97  # of the fraction; the rest is closing the file, the gate and the upload
_BLACK = 24


@dataclass(frozen=True, slots=True)
class Shape:
    """What a clip is to be: sides in pixels (even), frames a second, quality 0..100, codec hevc, h264 or any.

    `frames` is how many are expected, for progress; how many came is what counts in the end. `begun` is the fraction
    of the run that lies behind it when the first frame comes.
    """

    width: int
    height: int
    fps: Fraction
    frames: int
    quality: int = 65
    codec: str = "hevc"
    phase: Phase = Phase.RENDERING
    begun: float = 0.0


def write(run: Run, shape: Shape, frames: Callable[[], Iterable[Image.Image]]) -> list[Output]:
    """Encode RGB frames of exactly that shape, one at a time; `video` first, then `poster` and maybe `playback`.

    `frames` is called again from the start when a hardware encoder that passed its probe fails on the job, which then
    goes on with the next encoder. Reports progress and asks `run.stop` for every frame; shows a preview every second.
    """
    binary = ffmpeg.resolve(run.ffmpeg)
    failed: list[str] = []
    for encoder in encoders.candidates(shape.codec, binary):
        try:
            outputs = _encode(run, shape, frames, encoder, binary)
        except FfmpegFailed:
            if not encoder.hardware:
                raise
            failed.append(encoder.label)
            continue
        meta = {"encoder": encoder.label, **({"gave_up": failed} if failed else {})}
        return [replace(outputs[0], meta={**outputs[0].meta, **meta}), *outputs[1:]]
    raise EngineError(f"no encoder for {shape.codec} works on this machine" + (f"; {failed} failed" if failed else ""))


def _encode(
    run: Run, shape: Shape, frames: Callable[[], Iterable[Image.Image]], encoder: Encoder, binary: Path
) -> list[Output]:
    playback = playback_size(shape) if encoder.codec == "hevc" and encoders.works(encoders.X264, binary) else None
    head = encoders.source(encoder, shape.width, shape.height, shape.fps)
    if playback is None:
        tail = encoders.target(encoder, shape.quality, shape.fps, "video.mp4")
    else:
        tail = encoders.target_with_playback(
            encoder, shape.quality, shape.fps, "video.mp4", playback="playback.mp4", size=playback
        )
    limits = sandbox.for_frames(shape.width, shape.height, shape.frames, device=encoder.hardware)
    watch = _Watch(run, shape)
    with Ffmpeg(
        binary, [*head, *tail], workdir=run.workdir, limits=limits, stop=run.stop, device=encoder.hardware
    ) as process:
        for frame in frames():
            run.stop()
            if frame.mode != "RGB" or frame.size != (shape.width, shape.height):
                # ffmpeg would shear every frame from here on, and exit with 0.
                raise EngineError(f"a {frame.mode} frame of {frame.size} does not belong in this clip")
            process.write(frame.tobytes())
            watch.saw(frame)
        if watch.seen == 0:
            raise EngineError("there is no frame to encode")
        watch.closing()
        process.finish()
    return watch.outputs(encoder, playback)


def playback_size(shape: Shape) -> tuple[int, int]:
    """The clip's size within 1280x720 (or 720x1280), even, never larger than the clip."""
    long, short = max(shape.width, shape.height), min(shape.width, shape.height)
    scale = min(Fraction(1), Fraction(PLAYBACK_LONG, long), Fraction(PLAYBACK_SHORT, short))
    return max(2, round(shape.width * scale / 2) * 2), max(2, round(shape.height * scale / 2) * 2)


def jpeg(image: Image.Image, side: int, quality: int) -> tuple[bytes, int, int]:
    """A JPEG whose longer side is at most `side` pixels, and its width and height."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.BOX if side < 512 else Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    small.save(packed, "JPEG", quality=quality, optimize=side > 512)
    return packed.getvalue(), small.width, small.height


def _is_black(frame: Image.Image) -> bool:
    """Whether nothing in it is sure to survive encoding: a lone bright pixel may not, a brighter 16x16 block does."""
    blocks = frame.reduce(min(16, *frame.size))
    return max(blocks.convert("L").tobytes()) <= _BLACK


class _Watch:
    """What the encoding loop tells the world about the frames that pass through it."""

    def __init__(self, run: Run, shape: Shape) -> None:
        self._run, self._shape = run, shape
        self._began = self._shown = time.monotonic()
        self.seen = 0
        self._black = True
        self._poster: dict[str, int] = {}

    def saw(self, frame: Image.Image) -> None:
        now = time.monotonic()
        if self.seen == 0:
            poster, width, height = jpeg(frame, POSTER_SIDE, 88)
            self._poster = {"width": width, "height": height}
            (self._run.workdir / "poster.jpg").write_bytes(poster)
        self._black = self._black and _is_black(frame)
        self.seen += 1
        if self.seen == 1 or now - self._shown >= PREVIEW_S:
            self._shown = now
            small, width, height = jpeg(frame, PREVIEW_SIDE, 72)
            self._run.preview(small, "image/jpeg", width, height)
        self._report(self._shape.phase, now)

    def closing(self) -> None:
        self._report(Phase.ENCODING, time.monotonic())

    def _report(self, phase: Phase, now: float) -> None:
        total = max(self._shape.frames, self.seen)
        left = (now - self._began) / self.seen * (total - self.seen)
        part = self._shape.begun + (_LAST - self._shape.begun) * self.seen / total
        self._run.report(Progress(part, phase, frames_done=self.seen, frames_total=total, eta_s=left))

    def outputs(self, encoder: Encoder, playback: tuple[int, int] | None) -> list[Output]:
        fps = self._shape.fps

        def video(name: str, codec: str, width: int, height: int) -> Output:
            expect = Expected(
                width=width,
                height=height,
                frames=self.seen,
                fps=f"{fps.numerator}/{fps.denominator}",
                duration_s=float(self.seen / fps),
                codec=codec,
                black=self._black,
            )
            return Output(name=name, path=self._run.workdir / f"{name}.mp4", content_type="video/mp4", expect=expect)

        poster = Output(
            name=POSTER, path=self._run.workdir / "poster.jpg", content_type="image/jpeg", meta=self._poster
        )
        outputs = [video("video", encoder.codec, self._shape.width, self._shape.height), poster]
        return outputs if playback is None else [*outputs, video(PLAYBACK, "h264", *playback)]
