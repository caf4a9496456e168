"""The runner child as its supervisor sees it: start it, give it orders, hear from it, kill it and all it started."""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from workers.channel import Channel, ChannelClosed, Message

SEND_TIMEOUT_S: Final = 30.0
REAP_S: Final = 10.0
_KEPT: Final = frozenset({"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ", "LANG", "TMPDIR", "VIRTUAL_ENV"})
_KEPT_PREFIXES: Final = (
    *("LC_", "LD_LIBRARY_PATH", "DYLD_", "PYTHON", "XDG_"),
    *("CUDA_", "NVIDIA_", "PYTORCH_", "TORCH", "OMP_", "MKL_", "OPENBLAS_", "GGML_", "VK_", "HF_HOME", "HF_HUB_CACHE"),
)
_OOM_KILLS: Final = Path("/sys/fs/cgroup/memory.events")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gone:
    """The runner ended, killed by `signal` if there is one; `out_of_memory` when the kernel says it did that."""

    signal: int | None
    status: int | None
    out_of_memory: bool

    @property
    def sentence(self) -> str:
        if self.out_of_memory:
            return "the runner was killed because the worker ran out of memory"
        if self.signal is not None:
            return f"the runner was killed by signal {self.signal}"
        return f"the runner ended with status {self.status}"


class Child:
    """One runner process in a session of its own; it is never restarted, its owner makes another.

    What the runner says about a run comes out of `inbox`: messages `resumed`, `progress`, `preview`, `checkpoint`, then
    one of `done` (outputs) and `ended` (outcome, message, field); and `Gone` once, last, when the process ended for
    whatever reason. None in the inbox means nothing but "look again". `on_change` is called, from a thread, when the
    runner became ready or is gone.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.inbox: queue.SimpleQueue[Message | Gone | None] = queue.SimpleQueue()
        self.ready = threading.Event()
        self.gone = threading.Event()
        self.killed = False
        self.capabilities: Mapping[str, Any] | None = None
        self.holds: str | None = None
        self.profile: str | None = None
        """The model whose weights it was told to load, if any; it never gives them back."""
        self._on_change = on_change
        self.started = time.monotonic()
        self._oom_kills = _oom_kills()
        mine, its = socket.socketpair()
        self._channel = Channel(mine, send_timeout_s=SEND_TIMEOUT_S)
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "workers.runner", str(its.fileno())],
                start_new_session=True,
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_descriptor(sys.stderr) else subprocess.DEVNULL,
                env=scrubbed(os.environ),
            )
        self.pid = self._process.pid
        threading.Thread(target=self._listen, name=f"runner-{self.pid}", daemon=True).start()

    @property
    def usable(self) -> bool:
        """Whether it can be given a step now."""
        return self.ready.is_set() and not self.gone.is_set() and not self.killed

    def order(self, word: str, facts: Mapping[str, Any]) -> None:
        """Sends an order. A runner that cannot take it is killed, so that `Gone` follows; nothing is raised."""
        try:
            self._channel.send(word, facts)
        except ChannelClosed as error:
            _log.warning("the runner takes no orders: %s", error)
            self.kill()

    def nudge(self) -> None:
        """Makes whoever waits at the inbox look again."""
        self.inbox.put(None)

    def kill(self) -> None:
        """Kills the runner and its process group at once, also when it is stopped or hangs; `Gone` follows."""
        self.killed = True
        if self._process.returncode is None:
            self._kill_group()

    def close(self, timeout_s: float = REAP_S) -> bool:
        """Kills it and waits until it is reaped; False if even that took longer than `timeout_s`."""
        self.kill()
        return self.gone.wait(timeout_s)

    def _listen(self) -> None:
        try:
            while True:
                self._heard(self._channel.receive())
        except ChannelClosed:
            gone = self._reap()
        # In this order, so that whoever reads `Gone` finds the child unusable.
        self.gone.set()
        self.inbox.put(gone)
        self._on_change()

    def _heard(self, message: Message) -> None:
        match message.word:
            case "log":
                _log_of_runner(message)
            case "ready":
                self.ready.set()
                self._on_change()
            case "capabilities":
                self.capabilities = message.facts
                self._on_change()
            case _:
                self.inbox.put(message)

    def _reap(self) -> Gone:
        # Before it is waited for: until then the number of its group cannot be given to anybody else.
        self._kill_group()
        self._channel.close()
        try:
            status = self._process.wait(REAP_S)
        except subprocess.TimeoutExpired:
            _log.error("runner %d cannot be killed; it hangs inside the kernel", self.pid)
            return Gone(signal.SIGKILL, None, out_of_memory=False)
        killed = -status if status < 0 else None
        out_of_memory = killed == signal.SIGKILL and _oom_kills() > self._oom_kills
        return Gone(killed, None if killed else status, out_of_memory)

    def _kill_group(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        except PermissionError:
            # macOS says this of a group in which only a zombie is left.
            return


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """What a runner may know: where programs and libraries are, nothing that opens a door."""
    return {name: value for name, value in environment.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}


def _log_of_runner(message: Message) -> None:
    logging.getLogger(str(message.facts.get("name", "runner"))).log(
        int(message.facts.get("level", logging.INFO)), "%s", message.facts.get("text", "")
    )


def _oom_kills() -> int:
    """How often the kernel killed something in our control group for memory; 0 where it does not say (macOS)."""
    try:
        counts = dict(line.split() for line in _OOM_KILLS.read_text().splitlines())
        return int(counts.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0


def _has_descriptor(stream: Any) -> bool:
    try:
        return isinstance(stream.fileno(), int)
    except (AttributeError, OSError, ValueError):
        return False
