"""The box that ffmpeg runs in: resource limits always, a bubblewrap namespace where there is one that works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_LIMITS = Path(__file__).with_name("limits.py")
_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/etc/ld.so.cache", "/etc/alternatives", "/nix/store")
_INSIDE = "/.framewright"  # where the working directory is mounted; hides no place that a binary may lie in
_PROBE_S = 10.0
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Limits:
    """What one ffmpeg may use: CPU seconds, bytes of address space (None: not limited), bytes per file it writes.

    There is no limit on processes: RLIMIT_NPROC counts every thread of the *user*, so it would make x265 fail
    whenever something else of the same user is busy.
    """

    cpu_s: int = 120
    memory: int | None = 4 * GIB
    file_bytes: int = GIB
    open_files: int = 256

    def words(self) -> list[str]:
        memory = [] if self.memory is None else [f"as={self.memory}"]
        return [f"cpu={self.cpu_s}", *memory, f"fsize={self.file_bytes}", f"nofile={self.open_files}", "core=0"]


def for_frames(width: int, height: int, frames: int, *, device: bool = False) -> Limits:
    """Limits with room to spare for encoding that many frames (pixels); `device` is for hardware encoders.

    Ten times the CPU that the slowest preset here was measured to need. Address space, not memory: every thread of a
    many-core machine reserves a stack and an arena. CUDA reserves more than any sensible limit, so a device has none.
    """
    pixels = width * height * max(1, frames)
    memory = 4 * GIB + 320 * width * height + (os.cpu_count() or 1) * GIB // 4
    return Limits(
        cpu_s=120 + pixels // 2_000_000, memory=None if device else memory, file_bytes=(64 << 20) + 3 * pixels
    )


def command(argv: list[str], workdir: Path, limits: Limits, *, device: bool = False) -> list[str]:
    """The argv that runs `argv` (its first word an absolute path) boxed in, with `workdir` as its only writable place.

    Hardware encoders need the machine's device nodes and drivers, and are only ever fed raw frames that we made, so
    they run under limits alone.
    """
    wrap = None if device else bubblewrap(Path(argv[0]))
    inside = argv if wrap is None else [*_namespace(wrap, Path(argv[0]), workdir), *argv]
    return [sys.executable, "-I", "-S", str(_LIMITS), *limits.words(), "--", *inside]


def environment() -> dict[str, str]:
    """ffmpeg inherits no variables: what configures us is none of its business."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}


@lru_cache(maxsize=8)
def bubblewrap(binary: Path) -> str | None:
    """The bubblewrap in which that program runs here, found out by trying; None where there is none.

    Some machines allow no namespaces, and some programs (wrapper scripts, builds with libraries of their own beside
    them) need more of the file system than they are shown; those run under limits alone.
    """
    found = shutil.which("bwrap")
    if found is None:
        return None
    trial = [*_namespace(found, binary, Path("/tmp")), str(binary), "-version"]  # noqa: S108 - only looked at
    try:
        done = subprocess.run(trial, capture_output=True, timeout=_PROBE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    refused = done.returncode in (126, 127) or done.stderr.startswith(b"bwrap:")
    return None if refused else found


def _namespace(wrap: str, binary: Path, workdir: Path) -> list[str]:
    system = [word for place in _SYSTEM for word in ("--ro-bind-try", place, place)]
    own = [] if str(binary).startswith(("/usr/", "/bin/")) else ["--ro-bind", str(binary), str(binary)]
    return [
        wrap,
        *("--unshare-all", "--die-with-parent", "--cap-drop", "ALL"),
        *system,
        *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),  # noqa: S108 - its own, empty one
        *own,
        *("--bind", str(workdir), _INSIDE, "--chdir", _INSIDE, "--"),
    ]
