"""The child of `framewright.probe`: looks at the file on its stdin, prints what it is as JSON, and can do nothing else.

Once its decoders are imported it is confined (`framewright.confined`), to 1.5 GB of address space and 20 s of CPU. So a
decoder that is taken over by what it reads has nothing to reach.
"""

from __future__ import annotations

import json
import math
import sys
from fractions import Fraction
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from framewright import sounds
from framewright.confined import confine
from framewright.errors import UnsupportedMedia, WeightsRefused

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

MEMORY = 1_500_000_000
CPU_S = 20
MAX_STREAMS = 16
MAX_DURATION_S = 4 * 3600
MAX_PIXEL_FRAMES = 1_000_000_000_000  # two hours of 1080p at 60 frames/s
MAX_FPS = 1000
QUARTER_TURNS = (89, 90)  # degrees without their fraction: what ffmpeg takes for one
SOUNDS = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "ogg": "audio/ogg"}


def main() -> None:
    family, max_pixels = sys.argv[1], int(sys.argv[2])
    look = _loaded(family)
    confine(memory=MEMORY, cpu_s=CPU_S, file_bytes=0)
    try:
        facts = look(sys.stdin.buffer, max_pixels)
    except UnsupportedMedia as error:
        facts = {"refused": error.detail}
    except MemoryError:
        facts = {"refused": "the file needs more memory to decode than is allowed"}
    sys.stdout.write(json.dumps(facts))


def _loaded(family: str) -> Any:
    match family:
        case "image":
            return _load_image()
        case "weights":
            return _load_weights()
        case _:
            return _load_sound(family) if family in SOUNDS else _load_video(family)


def _load_image() -> Any:
    from framewright import stills

    def look(file: IO[bytes], max_pixels: int) -> dict[str, Any]:
        image = stills.open_still(file, max_pixels=max_pixels)
        content_type = stills.FORMATS[image.format or ""]
        stills.load_pixels(image)
        width, height = stills.shown_size(image)
        return {"kind": "image", "content_type": content_type, "width": width, "height": height, "frames": 1}

    return look


def _load_weights() -> Any:
    from framewright.models import headers

    def look(file: BinaryIO, _max_pixels: int) -> dict[str, Any]:
        try:
            headers.header_of(file, "the file", headers.MOST_SMALL_HEADER)
        except WeightsRefused as error:
            raise UnsupportedMedia(error.detail) from None
        return {"kind": "other", "content_type": headers.SAFETENSORS}

    return look


def _load_video(family: str) -> Any:
    import av
    import av.error
    import av.subtitles.codeccontext  # av would import these when it meets its first stream, behind the lock
    import av.subtitles.stream

    # Naming the demuxer keeps ffmpeg from guessing: a playlist with a clip's first bytes stays a broken clip.
    demuxer = {"mp4": "mov", "matroska": "matroska"}[family]

    def look(file: IO[bytes], max_pixels: int) -> dict[str, Any]:
        try:
            with av.open(file, "r", format=demuxer, metadata_errors="replace") as container:
                return _clip(container, family, max_pixels)
        except (av.error.FFmpegError, EOFError, ArithmeticError, AttributeError, ValueError):
            raise UnsupportedMedia("the clip is damaged or was cut short") from None

    return look


def _load_sound(family: str) -> Any:
    import av
    import av.error
    import av.subtitles.codeccontext  # av would import these behind the lock
    import av.subtitles.stream

    def look(file: IO[bytes], _max_pixels: int) -> dict[str, Any]:
        try:
            with av.open(file, "r", format=family, metadata_errors="replace") as container:
                return _sound(container, family)
        except (av.error.FFmpegError, EOFError, ArithmeticError, AttributeError, ValueError):
            raise UnsupportedMedia("the sound is damaged or was cut short") from None

    return look


def _sound(container: InputContainer, family: str) -> dict[str, Any]:
    if len(container.streams) > MAX_STREAMS or not container.streams.audio:
        raise UnsupportedMedia("there is no sound in it")
    stream = container.streams.audio[0]
    objection = sounds.objection(stream.rate, stream.channels)
    if objection:
        raise UnsupportedMedia(objection)
    samples = next((frame.samples for frame in container.decode(stream)), 0)
    base, begin, end = stream.time_base or Fraction(1, 90_000), sys.maxsize, 0
    container.seek(0)
    for packet in container.demux(stream):
        if packet.size and packet.pts is not None:
            begin, end = min(begin, packet.pts), max(end, packet.pts + (packet.duration or 0))
    seconds = float((end - begin) * base)
    if not samples or not 0 < seconds <= MAX_DURATION_S:
        raise UnsupportedMedia("the sound is too long, or there is none in it")
    return {"kind": "other", "content_type": SOUNDS[family], "duration_s": round(seconds, 6)}


def _clip(container: InputContainer, family: str, max_pixels: int) -> dict[str, Any]:
    if len(container.streams) > MAX_STREAMS:
        raise UnsupportedMedia(f"the clip has more than {MAX_STREAMS} streams")
    if not container.streams.video:
        raise UnsupportedMedia("the clip has no pictures")
    stream = container.streams.video[0]
    width, height = stream.width, stream.height
    if width < 1 or height < 1:
        raise UnsupportedMedia("the clip has no pictures")
    if width * height > max_pixels:
        raise UnsupportedMedia(f"the clip is too large: {width}x{height} is more than {max_pixels} pixels")
    stream.thread_count = 1
    first = next(container.decode(stream), None)
    if first is None:
        raise UnsupportedMedia("no picture of the clip can be decoded")
    if abs(first.rotation) in QUARTER_TURNS:
        width, height = height, width
    frames, seconds, fps = _length(container, stream)
    if fps > 0 and abs(seconds - frames / fps) < 1 / fps:
        seconds = float(frames / fps)  # Matroska rounds to milliseconds
    if not 0 < fps <= MAX_FPS or seconds > MAX_DURATION_S or width * height * frames > MAX_PIXEL_FRAMES:
        raise UnsupportedMedia("the clip is too long, or has an impossible frame rate")
    return {
        "kind": "video",
        "content_type": _content_type(container, family),
        "width": width,
        "height": height,
        "frames": frames,
        "fps": f"{fps.numerator}/{fps.denominator}",
        "duration_s": round(seconds, 6),
    }


def _length(container: InputContainer, stream: VideoStream) -> tuple[int, float, Fraction]:
    """Frames, seconds and frames a second. Fragmented files say none of it up front, so their packets are counted."""
    fps = stream.average_rate or stream.base_rate or Fraction(0)
    frames = stream.frames
    base = stream.time_base or Fraction(1, 90_000)
    if frames > 0 and stream.duration:
        return frames, float(stream.duration * base), fps
    container.seek(0)
    begin, end, frames = sys.maxsize, 0, 0
    for packet in container.demux(stream):
        if packet.size and packet.pts is not None:
            frames += 1
            begin = min(begin, packet.pts)
            end = max(end, packet.pts + (packet.duration or 0))
    seconds = float((end - begin) * base)
    if not math.isfinite(seconds) or frames == 0:
        raise UnsupportedMedia("the clip has no pictures")
    if fps == 0 and seconds > 0:
        fps = (frames / Fraction((end - begin) * base)).limit_denominator(1001)
    return frames, seconds or float(frames / fps), fps


def _content_type(container: InputContainer, family: str) -> str:
    if family == "mp4":
        return "video/quicktime" if container.metadata.get("major_brand", "").strip() == "qt" else "video/mp4"
    codecs = {stream.codec_context.name for stream in container.streams.video}
    return "video/webm" if codecs <= {"vp8", "vp9", "av1"} else "video/x-matroska"


if __name__ == "__main__":
    main()
