"""What a file says of its making, and whether that is true; a child process with hard limits reads it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from framewright.errors import SettingsError, UnsupportedMedia
from framewright.probe import environment
from framewright.provenance.anchors import Anchors

START_S: Final = 30.0
SLOWEST: Final = 20_000_000
"""Bytes a second that hashing is given at least."""
_HEAD: Final = 32
_BOXES: Final = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"uuid")


def verify(path: Path, anchors: Anchors, *, sidecar: Path | None = None) -> dict[str, Any]:
    """The facts of `framewright.provenance.verify_child.told`, or only `{"signed": False}`.

    `sidecar` is the manifest of a file that does not carry it; the file is then of any type. `UnsupportedMedia` when it
    is none that is read here, or one so damaged that nothing can be said of it.
    """
    size = path.stat().st_size
    with ExitStack() as kept:
        file = kept.enter_context(path.open("rb", buffering=0))  # unbuffered: the child finds it where we left it
        family = "application/octet-stream" if sidecar else sniff(file.read(_HEAD))
        if family is None:
            raise UnsupportedMedia("only MP4, MOV, PNG, JPEG, WebP, GIF, WAV and ZIP are verified, and this is none")
        file.seek(0)
        beside = kept.enter_context(sidecar.open("rb", buffering=0)).fileno() if sidecar else None
        patience_s = START_S + size / SLOWEST
        command = [sys.executable, "-P", "-m", "framewright.provenance.verify_child"]
        try:
            done = subprocess.run(
                [*command, family, str(int(patience_s)), json.dumps(asdict(anchors)), str(beside or "")],
                stdin=file,
                pass_fds=() if beside is None else (beside,),
                capture_output=True,
                timeout=patience_s,
                check=False,
                env=environment(),
            )
        except subprocess.TimeoutExpired:
            raise UnsupportedMedia("the file takes too long to read") from None
    return _understood(done)


def sniff(head: bytes) -> str | None:
    """The media type of what can be verified, by the first 32 bytes; None for everything else."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head[:4] == b"RIFF":
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav"}.get(head[8:12])
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "image/gif"
    if head.startswith(b"PK\x03\x04"):
        return "application/x-zip"
    return "video/mp4" if head[4:8] in _BOXES else None


def _understood(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        if b"ModuleNotFoundError" in done.stderr:
            raise SettingsError("nothing can be verified, because the package c2pa-python does not work here") from None
        # It was killed by a limit, or by what it read.
        raise UnsupportedMedia("the file needs more memory or time to read than is allowed") from None
    if "refused" in facts:
        raise UnsupportedMedia("the file is damaged or was cut short")
    return facts
