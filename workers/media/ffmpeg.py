"""ffmpeg as a child process: which one, boxed in, fed frame by frame, watched, and never left behind."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import IO

import imageio_ffmpeg

from framewright.errors import EngineError
from workers.media import sandbox
from workers.media.sandbox import Limits

STALL_S = 15.0
FINISH_S = 100.0
GRACE_S = 2.0
_ROUND_S = 0.2
_TAIL = 4096
_PIPE = 1 << 20

# A playlist named .mp4 reads other files even when only the file protocol is allowed: formats must be named as well.
UNTRUSTED = ("-protocol_whitelist", "file,pipe", "-format_whitelist", "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm")


class FfmpegFailed(EngineError):
    """ffmpeg could not be started, stopped taking frames, or ended with an error."""


@lru_cache(maxsize=8)
def resolve(configured: Path | None = None) -> Path:
    """The ffmpeg to run: the configured one, else a system one if it is newer than the wheel's, else the wheel's."""
    if configured is not None:
        if not (configured.is_file() and os.access(configured, os.X_OK)):
            raise FfmpegFailed("FRAMEWRIGHT_FFMPEG does not name a program; unset it to use the one from the wheel")
        return configured.absolute()
    system = shutil.which("ffmpeg")
    with contextlib.suppress(RuntimeError):
        wheel = Path(imageio_ffmpeg.get_ffmpeg_exe()).absolute()
        return Path(system) if system and version(Path(system)) > version(wheel) else wheel
    if system is None:
        raise FfmpegFailed("there is no ffmpeg; install the imageio-ffmpeg wheel or set FRAMEWRIGHT_FFMPEG")
    return Path(system)


@lru_cache(maxsize=8)
def version(binary: Path) -> tuple[int, ...]:
    """The release, such as (9, 0, 2); (0,) for a build that does not say or a program that does not answer."""
    try:
        done = subprocess.run([binary, "-version"], capture_output=True, timeout=20, check=False, text=True)
    except (OSError, subprocess.TimeoutExpired):
        return (0,)
    found = re.match(r"ffmpeg version n?(\d+(?:\.\d+)*)", done.stdout)
    return tuple(int(part) for part in found[1].split(".")) if found else (0,)


class Ffmpeg:
    """One ffmpeg that takes raw bytes on its stdin; use it as a context manager, which leaves no process behind.

    `args` name files relative to `workdir`, the only place it can write. `stop` is called while waiting for the
    process, at least five times a second, and may raise to end it. The stdin pipe is the life line: were this process
    killed, ffmpeg would read the end of its input and go. It shares our process group on purpose, so that whoever
    sweeps the group gets it too.

    A full disk raises `OSError` (ENOSPC); everything else that goes wrong is `FfmpegFailed` with the end of what
    ffmpeg said, without paths.
    """

    def __init__(
        self,
        binary: Path,
        args: list[str],
        *,
        workdir: Path,
        limits: Limits,
        stop: Callable[[], None],
        device: bool = False,
        stall_s: float = STALL_S,
        finish_s: float = FINISH_S,
    ) -> None:
        self._stop, self._stall_s, self._finish_s = stop, stall_s, finish_s
        argv = [str(binary), "-hide_banner", "-nostats", "-loglevel", "error", "-y", *args]
        try:
            self._process = subprocess.Popen(
                sandbox.command(argv, workdir, limits, device=device),
                cwd=workdir,
                env=sandbox.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                bufsize=0,
            )
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE):
                raise
            raise FfmpegFailed(f"ffmpeg cannot be started: {error.strerror}") from error
        assert self._process.stdin is not None  # noqa: S101 - PIPE was asked for
        assert self._process.stderr is not None  # noqa: S101
        self.pid = self._process.pid
        self._input = self._process.stdin
        self._said = _Tail(self._process.stderr)
        self._poll = select.poll()
        self._poll.register(self._input, select.POLLOUT)
        os.set_blocking(self._input.fileno(), False)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._input, fcntl.F_SETPIPE_SZ, _PIPE)

    def __enter__(self) -> Ffmpeg:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def write(self, data: bytes | memoryview) -> None:
        """Hand over all of `data`; a process that takes nothing for `stall_s` is given up."""
        view = memoryview(data).cast("B")
        since = time.monotonic()
        while view:
            try:
                taken = os.write(self._input.fileno(), view)
            except BlockingIOError:
                self._poll.poll(_ROUND_S * 1000)
                self._stop()
                if time.monotonic() - since > self._stall_s:
                    raise FfmpegFailed(f"ffmpeg took no data for {self._stall_s:g} s") from None
            except BrokenPipeError:
                self._wait()
                raise self._failure() from None
            else:
                view = view[taken:]
                since = time.monotonic()

    def finish(self) -> None:
        """Close the input and wait until ffmpeg has written its files out."""
        self._close_input()
        self._wait()
        if self._process.returncode != 0:
            raise self._failure()

    def kill(self) -> None:
        """End it if it still runs: TERM, two seconds, KILL. Safe to call again."""
        self._close_input()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._said.join()

    def _close_input(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._input.close()

    def _wait(self) -> None:
        until = time.monotonic() + self._finish_s
        while True:
            try:
                self._process.wait(_ROUND_S)
                return
            except subprocess.TimeoutExpired:
                self._stop()
            if time.monotonic() > until:
                raise FfmpegFailed(f"ffmpeg did not end within {self._finish_s:g} s of its last frame")

    def _failure(self) -> Exception:
        self._said.join()
        said = self._said.text()
        if "No space left on device" in said or "Disk quota exceeded" in said:
            return OSError(errno.ENOSPC, "the scratch disk is full")
        if "File too large" in said:
            return FfmpegFailed("ffmpeg wrote more than the output can sensibly need")
        code = self._process.returncode
        ended = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        return FfmpegFailed(f"ffmpeg {ended}: {without_paths(said) or 'it said nothing'}")


class _Tail:
    """Reads a stream to its end, so that its writer never blocks, and keeps the last few thousand bytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._kept = stream, b""
        self._thread = threading.Thread(target=self._drain, name="ffmpeg-stderr", daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        with self._stream:
            while piece := self._stream.read(_TAIL):
                self._kept = (self._kept + piece)[-_TAIL:]

    def join(self) -> None:
        self._thread.join(GRACE_S)

    def text(self) -> str:
        return self._kept.decode(errors="replace").strip()


def without_paths(said: str) -> str:
    """The last lines of what a tool said, in one line, with file names but not where they lie."""
    lines = [line.strip() for line in said.splitlines() if line.strip()][-3:]
    short = re.sub(r"(?:/[^\s/:'\"]+)*/([^\s/:'\"]+)", r"\1", "; ".join(lines))
    return "".join(sign if sign.isprintable() else "?" for sign in short)[-500:]


def call(binary: Path, args: list[str], *, workdir: Path, limits: Limits, stop: Callable[[], None]) -> None:
    """Run ffmpeg on files in `workdir`, boxed in; put `UNTRUSTED` before each `-i` of a file that we did not make."""
    with Ffmpeg(binary, args, workdir=workdir, limits=limits, stop=stop) as process:
        process.finish()
