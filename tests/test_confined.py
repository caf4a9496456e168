"""A process that is confined can read what it holds and answer, and can do nothing else."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from framewright.probe import environment

FILTERED = sys.platform == "linux" and platform.machine() in {"x86_64", "aarch64"}
SCRIPT = """
import mmap, os, socket, threading
from contextlib import suppress
from framewright.confined import confine

def reuse():
    os.close(0)
    os.open("/dev/null", os.O_RDONLY)

def fork():
    if (child := os.fork()) == 0:
        os._exit(0)
    with suppress(PermissionError):
        os.waitpid(child, 0)

def thread():
    made = threading.Thread(target=lambda: bytearray(1 << 20))
    made.start()
    made.join()

grown = os.open("grown", os.O_WRONLY | os.O_CREAT)
ACTS = {
    "thread": thread,
    "read": lambda: os.fstat(1),
    "open": lambda: os.close(os.open("/dev/null", os.O_RDONLY)),
    "reuse": reuse,
    "socket": lambda: socket.socket().close(),
    "memory": lambda: mmap.mmap(-1, 4 << 30).close(),
    "grow": lambda: os.pwrite(grown, b"12345678", 100),
    "delete": lambda: os.unlink(names.pop()),
    "truncate": lambda: os.truncate("kept", 1),
    "signal": lambda: os.kill(os.getppid(), 0),
    "fork": fork,
}

def able():
    for name, act in ACTS.items():
        try:
            act()
            yield name
        except (OSError, MemoryError):
            pass

names = ["first", "second"]
print(*able())
for wide in (1, 10):
    confine(memory=(1 << 30) * wide, cpu_s=60 * wide, file_bytes=0)
print(*able(), flush=True)
os.execv("/bin/echo", ["echo", "started a program"])
"""


def confined(folder):
    for name in ("first", "second", "kept"):
        (folder / name).write_text("kept")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        cwd=folder,
    )
    return [set(line.split()) for line in done.stdout.splitlines()]


@pytest.mark.skipif(not FILTERED, reason="elsewhere there are limits alone")
def test_a_process_that_is_taken_over_reaches_nothing(tmp_path):
    before, after = confined(tmp_path)
    assert before == {
        *("thread", "read", "open", "reuse", "socket", "memory", "grow"),
        *("delete", "truncate", "signal", "fork"),
    }
    assert after == {"thread", "read"}
    assert (tmp_path / "first").exists()
    assert (tmp_path / "kept").stat().st_size == 1  # by the first try, which was allowed
