"""The encoders ffmpeg may have, their argv, and which of them work on this machine: a probe decides, not a list."""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Literal

from framewright.errors import EngineError
from workers.media import sandbox
from workers.media.files import MOV, MP4, WEBM, File
from workers.media.sound import Written

Codec = Literal["hevc", "h264", "prores", "vp9", "av1"]

_PROBE_S = 20.0
_PROBE_SIDE = 256  # hardware encoders refuse very small pictures
# Untagged files are shown with the wrong colours; ffmpeg 9 ignores -color_* behind a filter graph, so setparams it is.
COLOUR = (
    "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int,"
    "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=iec61966-2-1"
)
# ProRes has no number for the curve of sRGB; that of BT.709 is what its players take for it anyway.
_PRORES_CURVE = ",setparams=color_trc=bt709"


def x264_scale(quality: int) -> int:
    """Quality 0..100 (best) on x264's CRF scale; 65 is CRF 18, measured equal to VideoToolbox's 65."""
    return min(51, max(1, round(0.51 * (100 - quality))))


def hevc_scale(quality: int) -> int:
    """Quality 0..100 on the scale of x265 and of the HEVC hardware encoders: four above x264 at equal PSNR."""
    return min(51, max(1, x264_scale(quality) + 4))


def vp9_scale(quality: int) -> int:
    """Quality 0..100 on the scale of VP9 and AV1, which ends at 63; 65 is 24."""
    return min(63, max(1, round(0.68 * (100 - quality))))


@dataclass(frozen=True, slots=True)
class Encoder:
    """One row of the table: how to ask ffmpeg for it. `setup` goes before the input, `filters` after the colours."""

    name: str
    codec: Codec
    hardware: bool
    args: Callable[[int], list[str]]
    filters: str = "format=nv12"
    setup: tuple[str, ...] = ()
    variant: str = ""
    file: File = MP4

    @property
    def label(self) -> str:
        """Its name, and the variant where one encoder has several."""
        return f"{self.name} ({self.variant})" if self.variant else self.name

    @property
    def tag(self) -> str | None:
        """hev1, ffmpeg's own choice, does not play in QuickTime. None: the file has no tags, or one for the codec."""
        return {"hevc": "hvc1", "h264": "avc1"}.get(self.codec)


def _video_toolbox(*, software: bool, constant_quality: bool) -> Encoder:
    def args(quality: int) -> list[str]:
        # Intel Macs know no constant quality; -crf and -qp would be accepted and ignored.
        rate = ["-q:v", str(max(1, quality))] if constant_quality else ["-b:v", f"{200 + 60 * quality}k"]
        return [*("-c:v", "hevc_videotoolbox", "-profile:v", "main"), *rate, *switches]

    switches = ("-allow_sw", str(int(software)), "-realtime", "0", "-prio_speed", "0")
    return Encoder("hevc_videotoolbox", "hevc", not software, args, variant="software" if software else "")


def _nvenc(quality: int) -> list[str]:
    rate = ("-rc", "vbr", "-cq", str(hevc_scale(quality)), "-b:v", "0")
    return ["-c:v", "hevc_nvenc", "-preset", "p4", *rate, "-profile:v", "main"]


def _qsv(quality: int) -> list[str]:
    return [
        *("-c:v", "hevc_qsv", "-preset", "veryfast", "-global_quality", str(hevc_scale(quality))),
        *("-profile:v", "main"),
    ]


def _vaapi(quality: int) -> list[str]:
    return ["-c:v", "hevc_vaapi", "-rc_mode", "CQP", "-qp", str(hevc_scale(quality)), "-profile:v", "main"]


def _amf(quality: int) -> list[str]:
    qp = str(hevc_scale(quality))
    return ["-c:v", "hevc_amf", "-quality", "balanced", "-rc", "cqp", "-qp_i", qp, "-qp_p", qp]


def _x265(quality: int) -> list[str]:
    # info=0 keeps x265's banner out of hvcC, which some Apple parsers mind.
    return [
        *("-c:v", "libx265", "-preset", "veryfast", "-crf", str(hevc_scale(quality))),
        *("-x265-params", "log-level=error:info=0"),
    ]


def _x264(quality: int) -> list[str]:
    return ["-c:v", "libx264", "-preset", "veryfast", "-crf", str(x264_scale(quality))]


def _prores(_quality: int) -> list[str]:
    # 422 HQ is one quality: that of an intermediate, which is worked on and encoded again.
    return ["-c:v", "prores_ks", "-profile:v", "hq", "-vendor", "apl0"]


def _vp9(quality: int) -> list[str]:
    rate = ("-crf", str(vp9_scale(quality)), "-b:v", "0")
    return ["-c:v", "libvpx-vp9", *rate, "-deadline", "good", "-cpu-used", "4", "-row-mt", "1"]


def _svt_av1(quality: int) -> list[str]:
    # Its own words go to stderr whatever ffmpeg was told, and are of no interest.
    return ["-c:v", "libsvtav1", "-crf", str(vp9_scale(quality)), "-preset", "8"]


def _aom_av1(quality: int) -> list[str]:
    return ["-c:v", "libaom-av1", "-crf", str(vp9_scale(quality)), "-b:v", "0", "-cpu-used", "6", "-row-mt", "1"]


X265 = Encoder("libx265", "hevc", hardware=False, args=_x265, filters="format=yuv420p")
X264 = Encoder("libx264", "h264", hardware=False, args=_x264, filters="format=yuv420p")
PRORES = Encoder(
    "prores_ks", "prores", hardware=False, args=_prores, filters=f"format=yuv422p10le{_PRORES_CURVE}", file=MOV
)
# VP9 first: it plays in more places, and on older phones.
_WEBM = (
    Encoder("libvpx-vp9", "vp9", hardware=False, args=_vp9, filters="format=yuv420p", file=WEBM),
    Encoder("libsvtav1", "av1", hardware=False, args=_svt_av1, filters="format=yuv420p", file=WEBM),
    Encoder("libaom-av1", "av1", hardware=False, args=_aom_av1, filters="format=yuv420p", file=WEBM),
)
_LINUX = (
    Encoder("hevc_nvenc", "hevc", hardware=True, args=_nvenc),
    Encoder("hevc_qsv", "hevc", hardware=True, args=_qsv, setup=("-init_hw_device", "qsv=hw")),
    Encoder(
        *("hevc_vaapi", "hevc"),
        hardware=True,
        args=_vaapi,
        filters="format=nv12,hwupload",
        setup=("-vaapi_device", "/dev/dri/renderD128"),
    ),
    Encoder("hevc_amf", "hevc", hardware=True, args=_amf),
)


def table(system: str = sys.platform, machine: str = "") -> tuple[Encoder, ...]:
    """The encoders to try on such a machine, best first."""
    if system != "darwin":
        return (*_LINUX, X265, X264)
    if (machine or platform.machine()) == "arm64":
        hard, soft = (_video_toolbox(software=software, constant_quality=True) for software in (False, True))
        return (hard, soft, X265, X264)
    return (_video_toolbox(software=False, constant_quality=False), X265, X264)


def candidates(codec: str, binary: Path) -> Iterator[Encoder]:
    """The encoders for `hevc`, `h264`, `any` of these two, `prores` or `webm` that work here, best first.

    Each is probed only when it is its turn.
    """
    table_of = {"prores": (PRORES,), "webm": _WEBM}
    for encoder in table_of.get(codec) or table():
        if codec in (encoder.codec, encoder.file.ending, "any") and works(encoder, binary):
            yield encoder


def available(binary: Path) -> tuple[Encoder, ...]:
    """Every encoder of the table that works here; what a worker says of itself."""
    return tuple(encoder for encoder in table() if works(encoder, binary))


def works(encoder: Encoder, binary: Path) -> bool:
    """Whether it encodes one frame here. Remembered for as long as the binary stays the same file."""
    try:
        seen = binary.stat()
    except OSError:
        return False
    return _probe(encoder, binary, seen.st_mtime_ns, seen.st_size)


@lru_cache(maxsize=64)
def _probe(encoder: Encoder, binary: Path, _changed_ns: int, _size: int) -> bool:
    frame, name = bytes(_PROBE_SIDE * _PROBE_SIDE * 3), f"probe.{encoder.file.ending}"
    limits = sandbox.for_frames(_PROBE_SIDE, _PROBE_SIDE, 1, device=encoder.hardware)
    with tempfile.TemporaryDirectory(prefix="framewright-probe-") as place:
        args = [*source(encoder, _PROBE_SIDE, _PROBE_SIDE, Fraction(1)), *target(encoder, 65, Fraction(1), name)]
        argv = [str(binary), "-hide_banner", "-loglevel", "error", "-y", *args]
        try:
            done = subprocess.run(
                sandbox.command(argv, Path(place), limits, device=encoder.hardware),
                input=frame,
                cwd=place,
                env=sandbox.environment(),
                capture_output=True,
                timeout=_PROBE_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        written = Path(place) / name
        return done.returncode == 0 and written.is_file() and written.stat().st_size > 0


def source(encoder: Encoder, width: int, height: int, fps: Fraction) -> list[str]:
    """The argv up to the input: raw RGB frames of that size (pixels, even) on stdin."""
    if width % 2 or height % 2:
        raise EngineError(f"{width}x{height} has an odd side; 4:2:0 video has none")
    return [*encoder.setup, *raw(width, height, fps)]


def raw(width: int, height: int, fps: Fraction) -> list[str]:
    """The argv of an input of raw RGB frames of that size (pixels) on stdin."""
    how = ("-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{width}x{height}")
    return [*how, "-framerate", f"{fps.numerator}/{fps.denominator}", "-i", "pipe:0"]


@dataclass(frozen=True, slots=True)
class Beside:
    """What goes into a file with its pictures: sound, and the name of a file of tags. Each is one more input."""

    sound: Written | None = None
    tags: str | None = None

    def inputs(self) -> list[str]:
        """The argv of the inputs, after that of the pictures."""
        heard = [] if self.sound is None else ["-i", self.sound.path.name]
        return heard if self.tags is None else [*heard, "-f", "ffmetadata", "-i", self.tags]

    def streams(self, file: File, *, tagged: bool) -> list[str]:
        """The argv of what a file takes of them; the pictures of it are mapped already."""
        heard = [] if self.sound is None else ["-map", "1:a", *file.heard(self.sound.rate)]
        if self.tags is None:
            return heard
        return [*heard, "-map_metadata", str(1 + (self.sound is not None)) if tagged else "-1"]


NOTHING = Beside()


def target(encoder: Encoder, quality: int, fps: Fraction, name: str, beside: Beside = NOTHING) -> list[str]:
    """The argv of one finished file: the index in front, so that it plays while it is being fetched."""
    pictures = ("-map", "0:v", "-vf", f"{COLOUR},{encoder.filters}")
    return [
        *beside.inputs(),
        *pictures,
        *_coded(encoder, quality, fps),
        *beside.streams(encoder.file, tagged=True),
        name,
    ]


def target_with_playback(
    encoder: Encoder,
    quality: int,
    fps: Fraction,
    name: str,
    *,
    playback: str,
    size: tuple[int, int],
    beside: Beside = NOTHING,
) -> list[str]:
    """As `target`, and from the same frames a small H.264 file of that size for players that know no such codec."""
    width, height = size
    graph = (
        f"[0:v]split[whole][rest];[whole]{COLOUR},{encoder.filters}[main];"
        f"[rest]scale={width}:{height}:flags=lanczos,{COLOUR},format=yuv420p[small]"
    )
    return [
        *beside.inputs(),
        *("-filter_complex", graph, "-map", "[main]", *_coded(encoder, quality, fps)),
        *(*beside.streams(encoder.file, tagged=True), name),
        *("-map", "[small]", *_coded(X264, 55, fps), *beside.streams(MP4, tagged=False), playback),
    ]


def playback_alone(fps: Fraction, name: str, size: tuple[int, int], beside: Beside = NOTHING) -> list[str]:
    """The argv of the small H.264 file of that size alone."""
    scaled = f"scale={size[0]}:{size[1]}:flags=lanczos,{COLOUR},format=yuv420p"
    pictures = ("-map", "0:v", "-vf", scaled)
    return [*beside.inputs(), *pictures, *_coded(X264, 55, fps), *beside.streams(MP4, tagged=False), name]


def _coded(encoder: Encoder, quality: int, fps: Fraction) -> list[str]:
    # A keyframe every ten seconds, but not every few frames of a slow clip: seeking stays cheap, stills stay small.
    group = [] if encoder.codec == "prores" else ["-g", str(min(250, max(24, round(10 * fps))))]
    tag = [] if encoder.tag is None else ["-tag:v", encoder.tag]
    return [*encoder.args(quality), *group, *tag, *encoder.file.flags]
