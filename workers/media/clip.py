"""Frames in, finished files out: the clip, pictures of it, and what goes with it where its format falls short."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from PIL import Image

from framewright.errors import EngineError
from framewright.jobs import PLAYBACK, POSTER, SOUND, SPRITE, THUMBNAIL, Eta, Phase, Progress
from workers.engines.run import Expected, Heard, Output, Run
from workers.media import encoders, ffmpeg, files, gifs, numbered, sandbox, tags
from workers.media import sound as sounds
from workers.media.encoders import Beside, Encoder
from workers.media.ffmpeg import Ffmpeg, FfmpegFailed
from workers.media.files import File
from workers.media.sheet import Sheet
from workers.media.sound import Sound, Written

PREVIEW_S = 1.0
PREVIEW_SIDE = 384
POSTER_SIDE = 1280
THUMBNAIL_SIDE = 320
PLAYBACK_LONG, PLAYBACK_SHORT = 1280, 720
LEAST_HUNDREDTHS = 2
"""Of a second, that a frame of a GIF lasts; browsers show what is quicker at ten."""
_LAST = 0.97  # of the fraction; the rest is closing the file, the gate and the upload
_BLACK = 24
_TAGS = "tags.txt"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a clip is to be: sides in pixels (even, but for gif and png), frames a second, quality 0..100.

    `codec` is hevc, h264, any of these two, prores, webm, gif, or png for a ZIP of numbered frames.

    `frames` is how many are expected, for progress; how many came is what counts in the end. `begun` is the fraction
    of the run that lies behind it when the first frame comes. `black` says that a clip of nothing but black is right
    where all that came is black, as it is where a source was.
    """

    width: int
    height: int
    fps: Fraction
    frames: int
    quality: int = 65
    codec: str = "hevc"
    phase: Phase = Phase.RENDERING
    begun: float = 0.0
    black: bool = True


def write(
    run: Run,
    shape: Shape,
    frames: Callable[[], Iterable[Image.Image]],
    *,
    sound: Sound | None = None,
    comment: str | None = None,
) -> list[Output]:
    """Encode RGB frames of exactly that shape, one at a time; `video` first, then its companions.

    These are `poster`, `thumbnail`, `sprite`, and where they are called for `playback` and `sound`. `sound` is cut or
    filled up to the length of the clip; `comment` (ASCII) is written into the file itself.

    `frames` is called again from the start for a GIF, which needs its colours first, and when a hardware encoder that
    passed its probe fails on the job, which then goes on with the next encoder. Reports progress and asks `run.stop`
    for every frame; shows a preview every second.
    """
    job = _Job(run, shape, ffmpeg.resolve(run.ffmpeg), frames, _beside(run, shape, sound, comment), comment)
    if shape.codec == "gif":
        return _gif(job)
    if shape.codec == "png":
        return _numbered(job)
    failed: list[str] = []
    for encoder in encoders.candidates(shape.codec, job.binary):
        try:
            outputs = _encode(job, encoder)
        except FfmpegFailed:
            if not encoder.hardware:
                raise
            failed.append(encoder.label)
            continue
        meta = {"encoder": encoder.label, **({"gave_up": failed} if failed else {})}
        return [replace(outputs[0], meta={**outputs[0].meta, **meta}), *outputs[1:]]
    raise EngineError(f"no encoder for {shape.codec} works on this machine" + (f"; {failed} failed" if failed else ""))


@dataclass(frozen=True, slots=True)
class _Job:
    """What is to be made of which frames, with what."""

    run: Run
    shape: Shape
    binary: Path
    frames: Callable[[], Iterable[Image.Image]]
    beside: Beside
    comment: str | None

    def feed(self, args: list[str] | None, saw: Callable[[Image.Image], None], *, hardware: bool = False) -> None:
        """Every frame through one ffmpeg (None: through none), and past `saw`."""
        shape, run = self.shape, self.run
        limits = sandbox.for_frames(shape.width, shape.height, shape.frames, device=hardware)
        with ExitStack() as kept:
            process = None
            if args is not None:
                process = Ffmpeg(self.binary, args, workdir=run.workdir, limits=limits, stop=run.stop, device=hardware)
                kept.enter_context(process)
            count = 0
            for frame in self.frames():
                run.stop()
                if frame.mode != "RGB" or frame.size != (shape.width, shape.height):
                    # ffmpeg would shear every frame from here on, and exit with 0.
                    raise EngineError(f"a {frame.mode} frame of {frame.size} does not belong in this clip")
                if process is not None:
                    process.write(frame.tobytes())
                saw(frame)
                count += 1
            if count == 0:
                raise EngineError("there is no frame to encode")
            self.report(Phase.ENCODING, count)
            if process is not None:
                process.finish()

    def report(self, phase: Phase, seen: int, left_s: float | None = 0.0) -> None:
        total = max(self.shape.frames, seen)
        part = self.shape.begun + (_LAST - self.shape.begun) * seen / total
        eta = None if left_s is None else Eta(left_s, None, "current_step")
        self.run.report(Progress(part, phase, frames_done=seen, frames_total=total, eta=eta))


def _beside(run: Run, shape: Shape, sound: Sound | None, comment: str | None) -> Beside:
    told = None
    if comment is not None:
        tags.for_ffmpeg(comment, run.workdir / _TAGS, *files.FORMATS[shape.codec].tags)
        told = _TAGS
    if sound is None:
        return Beside(tags=told)
    return Beside(sounds.write(sound, run.workdir / "sound.wav", shape.frames / shape.fps), told)


def _encode(job: _Job, encoder: Encoder) -> list[Output]:
    shape, name = job.shape, f"video.{encoder.file.ending}"
    wanted = encoder.codec == "hevc" or encoder.file.playback
    playback = playback_size(shape) if wanted and encoders.works(encoders.X264, job.binary) else None
    head = encoders.source(encoder, shape.width, shape.height, shape.fps)
    if playback is None:
        tail = encoders.target(encoder, shape.quality, shape.fps, name, job.beside)
    else:
        tail = encoders.target_with_playback(
            *(encoder, shape.quality, shape.fps, name), playback="playback.mp4", size=playback, beside=job.beside
        )
    watch = _Watch(job)
    job.feed([*head, *tail], watch.saw, hardware=encoder.hardware)
    return watch.outputs(encoder.codec, encoder.file, playback)


def _gif(job: _Job) -> list[Output]:
    """256 colours from all frames, then the frames in these; two passes, because one would hold the clip in memory."""
    shape = job.shape
    hundredths = 100 / shape.fps
    if hundredths.denominator != 1 or hundredths < LEAST_HUNDREDTHS:
        raise EngineError(
            f"a GIF cannot show {shape.fps} frames a second: each lasts a whole number of 1/100 s, from 2"
        )
    head = encoders.raw(shape.width, shape.height, shape.fps)
    job.feed(
        [*head, "-vf", "palettegen=stats_mode=full", "-frames:v", "1", "-update", "1", "palette.png"],
        lambda _: job.report(shape.phase, 0, None),
    )
    graph = "[0:v][1:v]paletteuse=dither=sierra2_4a"
    watch = _Watch(job)
    job.feed([*head, "-i", "palette.png", "-filter_complex", graph, "-loop", "0", "video.gif"], watch.saw)
    if job.comment is not None:
        gifs.say(job.comment, job.run.workdir / "video.gif")
    return watch.outputs("gif", files.GIF, None)


def _numbered(job: _Job) -> list[Output]:
    shape = job.shape
    playback = playback_size(shape) if encoders.works(encoders.X264, job.binary) else None
    args = None
    if playback is not None:
        head = encoders.raw(shape.width, shape.height, shape.fps)
        args = [*head, *encoders.playback_alone(shape.fps, "playback.mp4", playback, replace(job.beside, tags=None))]
    watch = _Watch(job)
    with numbered.Frames(job.run.workdir / "video.zip", job.comment) as frames:

        def saw(frame: Image.Image) -> None:
            frames.add(frame)
            watch.saw(frame)

        job.feed(args, saw)
    return watch.outputs("png", files.ZIP, playback)


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

    def __init__(self, job: _Job) -> None:
        self._job, self._run, self._shape = job, job.run, job.shape
        self._began = self._shown = time.monotonic()
        self.seen = 0
        self._black = True
        self._stills: list[Output] = []
        self._sheet = Sheet(self._shape.frames, (self._shape.width, self._shape.height))

    def saw(self, frame: Image.Image) -> None:
        now = time.monotonic()
        if self.seen == 0:
            self._stills = [
                self._still(POSTER, frame, POSTER_SIDE, 88),
                self._still(THUMBNAIL, frame, THUMBNAIL_SIDE, 80),
            ]
        self._sheet.saw(self.seen, frame)
        self._black = self._black and _is_black(frame)
        self.seen += 1
        if self.seen == 1 or now - self._shown >= PREVIEW_S:
            self._shown = now
            small, width, height = jpeg(frame, PREVIEW_SIDE, 72)
            self._run.preview(small, "image/jpeg", width, height)
        left = (now - self._began) / self.seen * (max(self._shape.frames, self.seen) - self.seen)
        self._job.report(self._shape.phase, self.seen, left)

    def outputs(self, codec: str, file: File, playback: tuple[int, int] | None) -> list[Output]:
        sound = self._job.beside.sound
        shape = self._shape
        video = self._video("video", codec, file, (shape.width, shape.height), sound)
        if sound is not None and file.sound is not None:
            video = replace(video, meta={"sound": {"rate": file.rate(sound.rate), "channels": sound.channels}})
        outputs = [video, *self._stills, self._sprite()]
        if playback is not None:
            outputs.append(self._video(PLAYBACK, "h264", files.MP4, playback, sound))
        if sound is not None and file.sound is None:
            heard = self._heard(files.WAV, sound)
            meta = {"sound": {"rate": sound.rate, "channels": sound.channels}, "duration_s": round(heard.duration_s, 6)}
            outputs.append(
                Output(name=SOUND, path=sound.path, content_type=files.WAV.content_type, heard=heard, meta=meta)
            )
        if sound is not None and sound.changed_s:
            outputs[0] = replace(outputs[0], meta={**outputs[0].meta, "sound_changed_s": sound.changed_s})
        return outputs

    def _video(self, name: str, codec: str, file: File, size: tuple[int, int], sound: Written | None) -> Output:
        fps = self._shape.fps
        expect = Expected(
            width=size[0],
            height=size[1],
            frames=self.seen,
            fps=f"{fps.numerator}/{fps.denominator}",
            duration_s=float(self.seen / fps),
            codec=codec,
            black=self._shape.black and self._black,
            sound=self._heard(file, sound) if sound is not None and file.sound is not None else None,
        )
        path = self._run.workdir / f"{name}.{file.ending}"
        return Output(name=name, path=path, content_type=file.content_type, expect=expect)

    def _heard(self, file: File, sound: Written) -> Heard:
        rate = sound.rate if file is files.WAV else file.rate(sound.rate)
        lasts = float(self.seen / self._shape.fps)
        return Heard(rate=rate, channels=sound.channels, duration_s=lasts, silent=sound.silent)

    def _still(self, name: str, frame: Image.Image, side: int, quality: int) -> Output:
        packed, width, height = jpeg(frame, side, quality)
        path = self._run.workdir / f"{name}.jpg"
        path.write_bytes(packed)
        return Output(name=name, path=path, content_type="image/jpeg", meta={"width": width, "height": height})

    def _sprite(self) -> Output:
        path = self._run.workdir / "sprite.jpg"
        return Output(name=SPRITE, path=path, content_type="image/jpeg", meta=self._sheet.save(path))
