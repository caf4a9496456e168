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
from workers.engines.run import Expected, Heard, Output, Run
from workers.media import gifs, numbered
from workers.media.sound import loud

_TAGS = {"hevc": "hvc1", "h264": "avc1", "prores": "apch"}
_COLOUR = {"color_range": 1, "colorspace": 1, "color_primaries": 1, "color_trc": 13}  # tv, bt709, bt709, iec61966-2-1
_COLOURS = {**dict.fromkeys(("hevc", "h264", "vp9", "av1"), _COLOUR), "prores": {**_COLOUR, "color_trc": 1}}
_FORMATS = "mov,mp4,matroska,webm,gif,wav"
_DECODERS = {"libdav1d": "av1", "libaom-av1": "av1", "libvpx-vp9": "vp9"}
_SOUNDS = {"aac": "mp4a.40.2", "opus": "opus"}
_BLACK = 20  # luma of the brightest sample that still counts as black; video black is 16


def check(output: Output, run: Run) -> dict[str, Any]:
    """The artifact's meta: the output's own, and for a video what was measured while decoding every frame of it.

    width, height, frames, fps ("30000/1001"), duration_s and codecs (RFC 6381). All of its sound is decoded too. A file
    that is not what was expected is `InvalidOutput`. `run.stop` is called for every frame.
    """
    if not output.path.is_file() or output.path.stat().st_size == 0:
        raise InvalidOutput(f"{output.name}: the file is missing or empty")
    name, expect = output.name, output.expect
    try:
        if expect is None:
            if output.heard is not None:
                _listen(name, output, output.heard, run.stop)
            return dict(output.meta)
        if expect.codec == "gif":
            _same(name, "number of frames", gifs.frames(output.path), expect.frames)
        if expect.codec == "png":
            return {**output.meta, **_leafed(output, expect, run.stop)}
        with av.open(str(output.path), options={"format_whitelist": _FORMATS}) as container:
            found = _watch(name, container, expect, run.stop)
        if expect.sound is not None:
            found["codecs"] = f"{found['codecs']}, {_listen(name, output, expect.sound, run.stop)}"
        return {**output.meta, **found}
    except (av.error.FFmpegError, ValueError, EOFError) as error:
        raise InvalidOutput(f"{output.name}: the file does not decode: {type(error).__name__}") from error


def _leafed(output: Output, expect: Expected, stop: Callable[[], None]) -> dict[str, Any]:
    bright = numbered.check(output.name, output.path, (expect.width, expect.height), expect.frames, stop)
    if not bright and not expect.black:
        raise InvalidOutput(f"{output.name}: every frame is black")
    return _measured(expect, expect.frames, "png")


def _listen(name: str, output: Output, expect: Heard, stop: Callable[[], None]) -> str:
    """Decodes the only sound of a file, and says its codec; `InvalidOutput` if it is not what was expected."""
    with av.open(str(output.path), options={"format_whitelist": _FORMATS}) as container:
        stream = container.streams.audio[0] if container.streams.audio else None
        if stream is None or stream.codec_context is None:
            raise InvalidOutput(f"{name}: it has no sound that is known")
        context = stream.codec_context
        context.options = {"err_detect": "explode"}
        _same(name, "samples a second", context.sample_rate, expect.rate)
        count, heard = 0, False
        for frame in container.decode(stream):
            stop()
            _same(name, "channels of sound", frame.layout.nb_channels, expect.channels)
            count += frame.samples
            heard = heard or loud(frame.to_ndarray())
        # A codec works in blocks, and what fills up the last one may be handed out; what is said must be exact.
        room = 0 if context.name.startswith("pcm") else 1024 + expect.rate // 50
        wanted = round(expect.duration_s * expect.rate)
        if not wanted - 1 <= count <= wanted + 1 + room:
            raise InvalidOutput(f"{name}: its sound has {count} samples instead of {wanted}")
        if stream.duration is not None and stream.time_base is not None:
            lasts = float(stream.duration * stream.time_base)
            if abs(lasts - expect.duration_s) > 2 / expect.rate + float(stream.time_base):
                raise InvalidOutput(f"{name}: its sound lasts {lasts:.4f} s instead of {expect.duration_s:.4f} s")
        if not heard and not expect.silent:
            raise InvalidOutput(f"{name}: its sound is silence")
        return _SOUNDS.get(context.name, context.name)


def _watch(
    name: str, container: av.container.InputContainer, expect: Expected, stop: Callable[[], None]
) -> dict[str, Any]:
    if len(container.streams.video) != 1:
        raise InvalidOutput(f"{name}: {len(container.streams.video)} video streams instead of 1")
    stream = container.streams.video[0]
    context: VideoCodecContext | None = stream.codec_context  # None for a codec that it does not know
    if context is None:
        raise InvalidOutput(f"{name}: the codec is not known")
    codec = _DECODERS.get(context.name, context.name)
    _same(name, "codec", codec, expect.codec or codec)
    _same(name, "number of sounds", len(container.streams.audio), int(expect.sound is not None))
    if expect.codec in _TAGS:
        _same(name, "codec tag", context.codec_tag, _TAGS[expect.codec])
    if expect.codec in _COLOURS:
        wanted = _COLOURS[expect.codec]
        _same(name, "colour tags", {tag: int(getattr(context, tag)) for tag in wanted}, wanted)
    context.options = {"err_detect": "explode"}  # a decoder that conceals damage hides it from us
    stream.thread_type = "AUTO"
    fps, counted, bright = Fraction(expect.fps), 0, False
    first = Fraction(0)
    # Times in an MP4 or WebM are rounded; a GIF's rate was chosen so that its own are not.
    room = Fraction(1, 100) / fps + (0 if codec == "gif" else 2 * (stream.time_base or 0))
    for frame in container.decode(stream):
        stop()
        at = _time(name, frame)
        first = at if counted == 0 else first
        _same(name, f"size of frame {counted}", (frame.width, frame.height), (expect.width, expect.height))
        if frame.is_corrupt:
            raise InvalidOutput(f"{name}: frame {counted} is damaged")
        if abs(at - first - counted / fps) > room:
            raise InvalidOutput(f"{name}: frame {counted} is shown at {float(at - first):.4f} s instead of its turn")
        bright = bright or _bright(frame)
        counted += 1
    _same(name, "number of frames", counted, expect.frames)
    duration = _duration(stream, counted / fps)
    if abs(duration - expect.duration_s) > max(0.5 / fps, 0.002):
        raise InvalidOutput(f"{name}: it lasts {duration:.3f} s instead of {expect.duration_s:.3f} s")
    if not bright and not expect.black:
        raise InvalidOutput(f"{name}: every frame is black")
    return _measured(expect, counted, codec_string(context))


def _measured(expect: Expected, counted: int, codecs: str) -> dict[str, Any]:
    fps = Fraction(expect.fps)
    return {
        "width": expect.width,
        "height": expect.height,
        "frames": counted,
        "fps": f"{fps.numerator}/{fps.denominator}",
        "duration_s": round(float(counted / fps), 6),
        "codecs": codecs,
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
    depth = frame.format.components[0].bits
    if frame.format.is_rgb or depth > 8:
        # 16 bits of grey are luma as it is for video of ten bits, and full range for a GIF; black is near 0 in both.
        grey = frame.to_ndarray(format="gray16le") if depth > 8 else frame.to_ndarray(format="gray")
        return bool(grey.max() > (_BLACK + 4 << 8 * (depth > 8)))
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
    if context.name in _DECODERS or context.name in ("vp9", "av1"):
        return _web_codec(_DECODERS.get(context.name, context.name), box)
    return tag if tag.isprintable() and tag.strip() else context.name


def _web_codec(name: str, box: bytes) -> str:
    """`av01.0.04M.08` from an av1C box; plain `vp9`, as browsers take it, where the file says no more."""
    if name != "av1" or len(box) < 4:
        return name
    tier, depth = "H" if box[2] & 0x80 else "M", 10 if box[2] & 0x40 else 8
    return f"av01.{box[1] >> 5}.{box[1] & 0x1F:02}{tier}.{depth:02}"
