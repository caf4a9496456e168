"""ffmpeg as a child: chosen, boxed in, watched, and never left behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from waiting import until

from framewright.errors import Canceled
from workers.media import ffmpeg, sandbox
from workers.media.ffmpeg import Ffmpeg, FfmpegFailed
from workers.media.sandbox import Limits

REAL = ffmpeg.resolve()
RAW = ["-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", "320x192", "-framerate", "24", "-i", "pipe:0"]
FRAME = os.urandom(320 * 192 * 3)
needs_bubblewrap = pytest.mark.skipif(
    sandbox.bubblewrap(Path("/bin/sh")) is None, reason="no bubblewrap that works here"
)


def quiet() -> None:
    return None


def script(path: Path, text: str) -> Path:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def started(workdir: Path, binary: Path = REAL, args: list[str] | None = None, **more: object) -> Ffmpeg:
    arguments = [*RAW, "-c:v", "libx264", "-preset", "ultrafast", "out.mp4"] if args is None else args
    return Ffmpeg(binary, arguments, **{"workdir": workdir, "limits": Limits(), "stop": quiet, **more})


def feed(process: Ffmpeg, frames: int = 1000) -> None:
    for _ in range(frames):
        process.write(FRAME)


def feed_all(process: Ffmpeg, frames: int) -> None:
    feed(process, frames)
    process.finish()


def versioned(path: Path, version: str) -> Path:
    return script(path, f"echo 'ffmpeg version {version} Copyright'\n")


@pytest.mark.parametrize(
    ("version", "wins"), [("99.1", True), ("n99.0.1-2", True), ("5.1.9-0+deb12u1", False), ("N-1234-gabc", False)]
)
def test_a_system_ffmpeg_is_taken_when_it_is_newer_than_the_wheels(tmp_path, monkeypatch, version, wins):
    system = versioned(tmp_path / "ffmpeg", version)
    monkeypatch.setenv("PATH", str(tmp_path))
    ffmpeg.resolve.cache_clear()
    try:
        assert (ffmpeg.resolve() == system) is wins
    finally:
        ffmpeg.resolve.cache_clear()


def test_the_configured_ffmpeg_wins_and_a_wrong_one_is_named(tmp_path):
    own = versioned(tmp_path / "own", "1.0")
    assert ffmpeg.resolve(own) == own
    with pytest.raises(FfmpegFailed, match="FRAMEWRIGHT_FFMPEG"):
        ffmpeg.resolve(tmp_path / "missing")


def test_frames_go_in_and_a_file_comes_out(tmp_path):
    with started(tmp_path) as process:
        for _ in range(5):
            process.write(FRAME)
        process.finish()
    assert (tmp_path / "out.mp4").stat().st_size > 1000


def test_what_ffmpeg_says_is_told_without_paths(tmp_path):
    args = ["-i", str(tmp_path / "secret" / "clip.mp4"), "out.mp4"]
    with started(tmp_path, args=args) as process, pytest.raises(FfmpegFailed) as failed:
        process.finish()
    assert "clip.mp4" in failed.value.detail
    assert "No such file" in failed.value.detail
    assert str(tmp_path) not in failed.value.detail
    assert "secret" not in failed.value.detail


def test_a_killed_ffmpeg_is_an_error_not_a_hang(tmp_path):
    with started(tmp_path) as process:
        process.write(FRAME)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(FfmpegFailed, match="signal 9"):
            feed(process)


def test_a_frozen_ffmpeg_is_given_up_and_removed(tmp_path):
    with started(tmp_path, stall_s=0.5) as process:
        process.write(FRAME)
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(FfmpegFailed, match="took no data"):
            feed(process)
    assert not psutil.pid_exists(process.pid)


def test_one_that_does_not_end_after_its_last_frame_is_given_up(tmp_path):
    stubborn = script(tmp_path / "stubborn", "trap '' TERM; while :; do sleep 0.1; done\n")
    with started(tmp_path, stubborn, finish_s=0.5) as process, pytest.raises(FfmpegFailed, match="did not end"):
        process.finish()
    assert not psutil.pid_exists(process.pid)


@pytest.mark.parametrize("when", ["write", "finish"])
def test_being_told_to_stop_reaches_it_while_it_waits(tmp_path, when):
    asleep = script(tmp_path / "asleep", "exec sleep 600\n")
    asked = []

    def stop() -> None:
        asked.append(1)
        if len(asked) > 2:
            raise Canceled("enough")

    with started(tmp_path, asleep, stop=stop) as process, pytest.raises(Canceled):
        feed_all(process, frames=0 if when == "finish" else 1000)
    assert not psutil.pid_exists(process.pid)


def test_much_talk_on_stderr_does_not_block_it(tmp_path):
    chatty = script(tmp_path / "chatty", "head -c 3000000 /dev/zero | tr '\\0' 'x' >&2; echo the end >&2; exit 3\n")
    with started(tmp_path, chatty) as process, pytest.raises(FfmpegFailed, match=r"status 3.*the end"):
        process.finish()


def test_it_knows_nothing_of_our_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAMEWRIGHT_DATABASE_URL", "postgresql://secret")
    nosy = script(tmp_path / "nosy", "env > seen.txt\n")
    with started(tmp_path, nosy) as process:
        process.finish()
    assert "secret" not in (tmp_path / "seen.txt").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_runs_under_limits(tmp_path):
    limits = sandbox.for_frames(320, 192, 10)
    with started(tmp_path, limits=limits) as process:
        # While one program takes the place of another there is no command line.
        until(lambda: psutil.Process(process.pid).cmdline()[:1] not in ([], [sys.executable]))
        seen = Path(f"/proc/{process.pid}/limits").read_text()
    rows = {line[:26].strip(): line[26:].split()[0] for line in seen.splitlines()}
    assert rows["Max cpu time"] == str(limits.cpu_s)
    assert rows["Max address space"] == str(limits.memory)
    assert rows["Max file size"] == str(limits.file_bytes)
    assert rows["Max core file size"] == "0"
    assert rows["Max open files"] == "256"


def test_a_file_larger_than_allowed_is_not_written(tmp_path):
    args = [*RAW, "-c:v", "rawvideo", "-f", "rawvideo", "out.raw"]
    process = started(tmp_path, args=args, limits=Limits(file_bytes=1_000_000))
    with process, pytest.raises(FfmpegFailed, match="more than the output can"):
        feed_all(process, 50)
    assert (tmp_path / "out.raw").stat().st_size <= 1_000_000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_as_one(tmp_path):
    (tmp_path / "out.mp4").symlink_to("/dev/full")
    with started(tmp_path) as process, pytest.raises(OSError, match="full") as failed:
        feed_all(process, 200)
    assert failed.value.errno == errno.ENOSPC


def test_it_does_not_outlive_us_whatever_kills_us(tmp_path):
    """Nobody closes anything in order: our end of the pipe goes with us, and ffmpeg reads the end of its input."""
    parent = f"""
import os, signal, sys, time
from pathlib import Path
sys.path[:0] = {sys.path!r}
from test_ffmpeg import FRAME, started
process = started(Path({str(tmp_path)!r}))
for _ in range(12):
    process.write(FRAME)
print(process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 20)


def test_a_playlist_in_disguise_reads_no_other_file(tmp_path):
    """Newer builds are pickier by themselves, so the playlist is forced upon them: the guard holds even then."""
    make = [REAL, "-loglevel", "error", "-f", "lavfi", "-i", "testsrc=size=64x64:duration=1", "-c:v", "libx264"]
    subprocess.run([*make, tmp_path / "private.ts"], check=True)
    playlist = tmp_path / "innocent.mp4"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nprivate.ts\n#EXT-X-ENDLIST\n")

    def read(*guard: str) -> None:
        forced = ["-f", "hls", "-allowed_extensions", "ALL", "-extension_picky", "0"]
        args = [*guard, *forced, "-i", "innocent.mp4", "-c", "copy", "out.mkv"]
        ffmpeg.call(REAL, args, workdir=tmp_path, limits=Limits(), stop=quiet)

    with pytest.raises(FfmpegFailed):
        read(*ffmpeg.UNTRUSTED)
    assert not (tmp_path / "out.mkv").exists()
    read("-protocol_whitelist", "file,pipe")
    assert (tmp_path / "out.mkv").stat().st_size > 1000, "naming the protocols alone does not stop it"


def test_clips_still_pass_the_guard_for_untrusted_input(tmp_path):
    with started(tmp_path) as process:
        process.write(FRAME)
        process.finish()
    args = [*ffmpeg.UNTRUSTED, "-i", "out.mp4", "-c", "copy", "copy.mkv"]
    ffmpeg.call(REAL, args, workdir=tmp_path, limits=Limits(), stop=quiet)
    assert (tmp_path / "copy.mkv").stat().st_size > 1000


def boxed(tmp_path: Path, command: str) -> subprocess.CompletedProcess[str]:
    argv = sandbox.command(["/bin/sh", "-c", command], tmp_path, Limits())
    return subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30)


@needs_bubblewrap
def test_the_namespace_shows_it_nothing_but_its_own_directory(tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_text("private")
    inner = tmp_path / "work"
    inner.mkdir()
    assert boxed(inner, f"cat {outside} || cat /etc/passwd").returncode != 0
    assert boxed(inner, "echo made > here.txt").returncode == 0
    assert (inner / "here.txt").read_text() == "made\n"
    assert boxed(inner, "echo x > /usr/here.txt").returncode != 0
    assert boxed(inner, "ls /proc/1/root/home").returncode != 0


@needs_bubblewrap
def test_the_namespace_shares_nothing_with_us_and_may_do_nothing(tmp_path):
    def seen(command: str) -> str:
        return boxed(tmp_path, command).stdout.strip()

    for kind in ("net", "pid", "ipc", "uts", "mnt"):
        assert seen(f"readlink /proc/self/ns/{kind}").startswith(f"{kind}:["), kind
        assert seen(f"readlink /proc/self/ns/{kind}") != str(Path(f"/proc/self/ns/{kind}").readlink()), kind
    assert seen("ls /etc") in {"alternatives", "ld.so.cache", "alternatives\nld.so.cache"}
    assert set(seen("grep CapEff /proc/self/status").split()[-1]) == {"0"}


def test_a_program_that_the_namespace_would_break_runs_without_it(tmp_path):
    """A wrapper script calls something that the namespace does not show."""
    (tmp_path / "elsewhere").mkdir()
    inner = script(tmp_path / "elsewhere" / "inner", "echo worked\n")
    wrapper = script(tmp_path / "wrapper", f"exec {inner}\n")
    (tmp_path / "work").mkdir()
    command = sandbox.command([str(wrapper)], tmp_path / "work", Limits())
    assert subprocess.run(command, capture_output=True, check=True, cwd=tmp_path / "work").stdout == b"worked\n"


def test_limits_are_those_asked_for_unless_a_lower_one_holds_already(tmp_path):
    command = sandbox.command(["/bin/sh", "-c", "ulimit -n"], tmp_path, Limits(open_files=77), device=True)
    assert subprocess.run(command, capture_output=True, check=True).stdout.strip() == b"77"
    lowered = ["/bin/sh", "-c", 'ulimit -n 60; exec "$@"', "sh", *command]
    assert subprocess.run(lowered, capture_output=True, check=True).stdout.strip() == b"60"
