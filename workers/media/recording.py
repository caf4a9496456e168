"""The sound that somebody sent, as samples as long as the clip that is made to it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np

from framewright import sounds
from framewright.errors import BadInput
from workers.engines.run import Run
from workers.media import ffmpeg, sandbox
from workers.media.ffmpeg import FfmpegFailed
from workers.media.footage import beside
from workers.media.sound import Sound

# As for pictures, no format that names other files.
_UNTRUSTED: Final = (
    *("-protocol_whitelist", "file,pipe"),
    *("-format_whitelist", "wav,flac,mp3,ogg,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"),
)


def sound(path: Path, seconds: Fraction, *, field: str, run: Run) -> Sound:
    """Its first `seconds`, fewer if it has fewer, with its own channels and samples a second.

    `BadInput` naming `field` when it does not decode, is none, or has a rate or channels that are not read.
    """
    source, plain = run.workdir / "recording", run.workdir / "recording.wav"
    most = int(seconds * sounds.MOST_RATE) * sounds.MOST_CHANNELS * 4
    limits = sandbox.Limits(file_bytes=most + (1 << 20))
    args = [*_UNTRUSTED, "-i", source.name, "-map", "0:a:0", "-t", f"{float(seconds):.6f}"]
    args += ["-c:a", "pcm_f32le", "-f", "wav", plain.name]
    try:
        beside(path, source)
        ffmpeg.call(ffmpeg.resolve(run.ffmpeg), args, workdir=run.workdir, limits=limits, stop=run.stop)
        heard = _samples(plain, field)
    except FfmpegFailed as error:
        raise BadInput(f"the sound cannot be decoded: {error.detail}", field=field) from error
    finally:
        source.unlink(missing_ok=True)
        plain.unlink(missing_ok=True)
    objection = sounds.objection(heard.rate, heard.channels)
    if objection:
        raise BadInput(objection, field=field)
    if not heard.samples.size or not np.isfinite(heard.samples).all():
        raise BadInput("there is no sound in it", field=field)
    return heard


def _samples(path: Path, field: str) -> Sound:
    """All of a WAV of 32-bit floats that ffmpeg wrote; `BadInput` naming `field` when it made none of what it read."""
    import av  # whoever gives no sound can do without

    try:
        with av.open(str(path), format="wav") as container:
            stream = container.streams.audio[0]
            rate, channels = stream.rate, stream.channels
            pieces = [frame.to_ndarray().reshape(-1, channels) for frame in container.decode(stream)]
    except av.FFmpegError as error:
        raise BadInput(f"the sound cannot be decoded: {error.strerror}", field=field) from error
    return Sound(np.concatenate([np.zeros((0, channels), np.float32), *pieces]).T, rate)
