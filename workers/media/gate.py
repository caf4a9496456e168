"""The output gate: decodes all of a video before anyone is told of it, because a full disk or a lost frame looks fine.

ffmpeg drops a short last frame and exits with 0, and a disk that ran full leaves a short file that plays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from framewright.errors import InvalidOutput
from workers.engines.run import Expected, Output, Run

_TAGS = {"hevc": "hvc1", "h264": "avc1"}
_COLOUR = {"color_range": 1, "colorspace": 1, "color_primaries": 1, "color_trc": 13}  # tv, bt709, bt709, iec61966-2-1
_BLACK = 20  # luma of the brightest sample that still counts as black; video black is 16


def check(output: Output, run: Run) -> dict[str, Any]:
    """The artifact's meta: the output's own, and for a video what was measured while decoding every frame of it.

    width, height, frames, fps ("30000/1001"), duration_s and codecs (RFC 6381). A file that is not what was expected
    is `InvalidOutput`. `run.stop` is called for every frame.
    """
    if not output.path.is_file() or output.path.stat().st_size == 0:
        raise InvalidOutput(f"{output.name}: the file is missing or empty")
    if output.expect is None:
        return dict(output.meta)
    try:
        with av.open(str(output.path), options={"format_whitelist": "mov,mp4,matroska,webm"}) as container:
            return {**output.meta, **_watch(output.name, container, output.expect, run.stop)}
    except (av.error.FFmpegError, ValueError, EOFError) as error:
        raise InvalidOutput(f"{output.name}: the file does not decode: {type(error).__name__}") from error


def _watch(
    name: str, container: av.container.InputContainer, expect: Expected, stop: Callable[[], None]
) -> dict[str, Any]:
    if len(container.streams.video) != 1:
        raise InvalidOutput(f"{name}: {len(container.streams.video)} video streams instead of 1")
    stream = container.streams.video[0]
    context: VideoCodecContext | None = stream.codec_context  # None for a codec that it does not know
    if context is None:
        raise InvalidOutput(f"{name}: the codec is not known")
    _same(name, "codec", context.name, expect.codec or context.name)
    if expect.codec in _TAGS:
        _same(name, "codec tag", context.codec_tag, _TAGS[expect.codec])
        _same(name, "colour tags", {tag: int(getattr(context, tag)) for tag in _COLOUR}, _COLOUR)
    context.options = {"err_detect": "explode"}  # a decoder that conceals damage hides it from us
    stream.thread_type = "AUTO"
    fps, counted, bright = Fraction(expect.fps), 0, False
    first = Fraction(0)
    for frame in container.decode(stream):
        stop()
        at = _time(name, frame)
        first = at if counted == 0 else first
        _same(name, f"size of frame {counted}", (frame.width, frame.height), (expect.width, expect.height))
        if frame.is_corrupt:
            raise InvalidOutput(f"{name}: frame {counted} is damaged")
        if abs(at - first - counted / fps) > Fraction(1, 100) / fps + 2 * (stream.time_base or 0):
            raise InvalidOutput(f"{name}: frame {counted} is shown at {float(at - first):.4f} s instead of its turn")
        bright = bright or _bright(frame)
        counted += 1
    _same(name, "number of frames", counted, expect.frames)
    duration = _duration(stream, counted / fps)
    if abs(duration - expect.duration_s) > max(0.5 / fps, 0.002):
        raise InvalidOutput(f"{name}: it lasts {duration:.3f} s instead of {expect.duration_s:.3f} s")
    if not bright and not expect.black:
        raise InvalidOutput(f"{name}: every frame is black")
    return {
        "width": expect.width,
        "height": expect.height,
        "frames": counted,
        "fps": f"{fps.numerator}/{fps.denominator}",
        "duration_s": round(float(counted / fps), 6),
        "codecs": codec_string(context),
    }


def _same(name: str, what: str, found: object, expected: object) -> None:
    if found != expected:
        raise InvalidOutput(f"{name}: {what} is {_plain(found)} instead of {_plain(expected)}")


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return "/".join(str(part) for part in value.values())
    return "x".join(str(part) for part in value) if isinstance(value, tuple) else str(value)


def _time(name: str, frame: VideoFrame) -> Fraction:
    if frame.pts is None or frame.time_base is None:
        raise InvalidOutput(f"{name}: a frame has no time")
    return frame.pts * frame.time_base


def _duration(stream: VideoStream, otherwise: Fraction) -> float:
    if stream.duration is None or stream.time_base is None:
        return float(otherwise)
    return float(stream.duration * stream.time_base)


def _bright(frame: VideoFrame) -> bool:
    plane = frame.planes[0]
    luma = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return bool(luma[: plane.height, : plane.width].max() > _BLACK)


def codec_string(context: VideoCodecContext) -> str:
    """The RFC 6381 name of a stream, such as `hvc1.1.6.L93.B0` or `avc1.64001F`, read from its avcC or hvcC box."""
    box = context.extradata or b""
    tag = context.codec_tag
    if context.name == "h264" and len(box) > 3:
        return f"{tag}.{box[1:4].hex().upper()}"
    if context.name == "hevc" and len(box) > 12:
        space = ("", "A", "B", "C")[box[1] >> 6]
        tier = "H" if box[1] & 0x20 else "L"
        reversed_flags = int(f"{int.from_bytes(box[2:6]):032b}"[::-1], 2)
        constraints = box[6:12].rstrip(b"\0")
        parts = [tag, f"{space}{box[1] & 0x1F}", f"{reversed_flags:X}", f"{tier}{box[12]}"]
        return ".".join([*parts, *(f"{byte:X}" for byte in constraints)])
    return tag
