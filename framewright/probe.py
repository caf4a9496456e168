"""What an uploaded file really is: a child process with hard limits looks at it, this one only at its first bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from framewright.errors import UnsupportedMedia
from framewright.models.headers import MOST_SMALL_HEADER

PATIENCE_S = 30.0
_HEAD = 32
_NOT_MEDIA = (
    "this is not a picture (PNG, JPEG, WebP), clip (MP4, MOV, MKV, WebM), sound (WAV, FLAC, MP3, Ogg) "
    "or LoRA (safetensors) that this service reads"
)


@dataclass(frozen=True, slots=True)
class Probed:
    """What a file holds; a sound is `other`, and so are weights.

    Sizes in pixels as shown (EXIF applied, and the display matrix of a clip); `fps` is an exact rational such as
    "30000/1001".
    """

    kind: Literal["image", "video", "other"]
    content_type: str
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: str | None = None
    duration_s: float | None = None


def probe_file(path: Path, *, max_pixels: int) -> Probed:
    """Decode enough of the file to know what it is: all of a picture, the header and a frame of a clip, all
    packets of a sound, the header of weights.

    The content decides, never the name. `UnsupportedMedia` says what is wrong; so does a file that needs more memory
    or time than the child may use. Takes about 0.1 s for a small picture. `OSError` when the file cannot be read.
    """
    with path.open("rb", buffering=0) as file:  # unbuffered, so that the child finds it where we left it
        family = sniff(file.read(_HEAD))
        if family is None:
            raise UnsupportedMedia(_NOT_MEDIA)
        file.seek(0)
        # The open file is all that the child gets: it has no path, and after its imports it can open nothing.
        command = [sys.executable, "-P", "-m", "framewright.probe_child", family, str(max_pixels)]
        try:
            done = subprocess.run(
                command, stdin=file, capture_output=True, timeout=PATIENCE_S, check=False, env=environment()
            )
        except subprocess.TimeoutExpired:
            raise UnsupportedMedia("the file takes too long to decode") from None
    return _verdict(done.stdout)


def sniff(head: bytes) -> str | None:
    """`image`, `mp4`, `matroska`, the kind of a sound or `weights` by the first 32 bytes; None for all else, playlists
    too."""
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MOST_SMALL_HEADER:
        return "weights"
    if head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return "image"
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mp4"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    return _sound(head)


def _sound(head: bytes) -> str | None:
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "wav"
    if head.startswith((b"fLaC", b"OggS")):
        return "flac" if head.startswith(b"f") else "ogg"
    # Tags before an MP3, or the first frame of one: eleven bits set, and layer 3.
    return "mp3" if head.startswith(b"ID3") or (head[:1] == b"\xff" and head[1:2] and head[1] & 0xE6 == 0xE2) else None


def _verdict(said: bytes) -> Probed:
    try:
        facts = json.loads(said)
    except ValueError:
        # It was killed by a limit, or by what it read.
        raise UnsupportedMedia("the file needs more memory or time to decode than is allowed") from None
    if "refused" in facts:
        raise UnsupportedMedia(facts["refused"])
    return Probed(**facts)


def environment() -> dict[str, str]:
    """Only what Python itself needs to find what we have found; no setting and no secret of ours."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH") if name in os.environ}
    places = [str(Path(__file__).parent.parent), *(place for place in sys.path if place)]
    return {**kept, "PYTHONPATH": os.pathsep.join(places), "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
