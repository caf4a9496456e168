"""The frames of a video that somebody sent, at the rate and in the size of the clip that is made of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from PIL import Image

from framewright.errors import BadInput
from workers.engines.run import Run
from workers.media import ffmpeg, sandbox
from workers.media.ffmpeg import UNTRUSTED, FfmpegFailed


def frames(
    path: Path, fps: Fraction, count: int, size: tuple[int, int], *, field: str, run: Run
) -> Iterator[Image.Image]:
    """The first `count` frames in RGB, scaled to cover `size` (width, height in pixels) and cropped about their middle.

    Frames are repeated or left out to get from the video's rate to `fps`. `BadInput` naming `field` when it does not
    decode or is too short.
    """
    width, height = size
    source, raw = run.workdir / "footage", run.workdir / "footage.rgb"
    try:
        beside(path, source)
        # ffmpeg keeps the picture's shape, then cuts what is over.
        fit = f"scale={width}:{height}:force_original_aspect_ratio=increase:flags=lanczos,crop={width}:{height}"
        rate = f"{fps.numerator}/{fps.denominator}"
        args = [*UNTRUSTED, "-i", source.name, "-map", "0:v:0", "-vf", f"fps={rate},{fit}", "-frames:v", str(count)]
        args += ["-f", "rawvideo", "-pix_fmt", "rgb24", raw.name]
        limits = sandbox.for_frames(width, height, count)
        try:
            ffmpeg.call(ffmpeg.resolve(run.ffmpeg), args, workdir=run.workdir, limits=limits, stop=run.stop)
        except FfmpegFailed as error:
            raise BadInput(f"the video cannot be decoded: {error.detail}", field=field) from error
        one = width * height * 3
        found = raw.stat().st_size // one if raw.exists() else 0
        if found < count:
            raise BadInput(f"the video has {found} frames at {rate} a second, and the clip takes {count}", field=field)
        with raw.open("rb") as file:
            for _ in range(count):
                yield Image.frombytes("RGB", size, file.read(one))
    finally:
        source.unlink(missing_ok=True)
        raw.unlink(missing_ok=True)


def beside(path: Path, place: Path) -> None:
    """Puts a file where the boxed ffmpeg can see it."""
    try:
        os.link(path, place)
    except OSError:
        shutil.copyfile(path, place)
