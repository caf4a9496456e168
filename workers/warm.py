"""Weights of models that were unloaded stay in the machine's memory, so that loading them again reads no disk."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Final

_CHUNK: Final = 8 << 20
_log = logging.getLogger(__name__)


class Warm:
    """Keeps the page cache of the models used last warm, from a thread, up to `most` bytes; 0 keeps none.

    Nothing is held by this process: the kernel may take the memory for something else at any time, and what it took is
    read again only when the model is next kept. Nothing is read between `pause` and `go_on`: the disk is for the model
    that is loaded meanwhile. The models that are kept longest go first when there are too many, and
    one that is larger than `most` is not kept at all.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._asked: queue.SimpleQueue[tuple[str, Path] | None] = queue.SimpleQueue()
        self._kept: OrderedDict[str, dict[Path, int]] = OrderedDict()
        self._may_read = threading.Event()
        self._may_read.set()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="warm", daemon=True)

    def start(self) -> None:
        if self._most:
            self._thread.start()

    def keep(self, model: str, folder: Path) -> None:
        """The model whose weights lie below `folder` was just given up; returns at once."""
        if self._thread.is_alive():
            self._asked.put((model, folder))

    def pause(self) -> None:
        """A model is about to be loaded."""
        self._may_read.clear()

    def go_on(self) -> None:
        """Nothing is being loaded."""
        self._may_read.set()

    def close(self, timeout_s: float = 5.0) -> None:
        """Reads nothing more."""
        self._closed = True
        self._may_read.set()
        if self._thread.is_alive():
            self._asked.put(None)
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while (asked := self._asked.get()) is not None:
            self._may_read.wait()
            try:
                self._keep(*asked)
            except OSError as error:
                _log.info("the weights of %s are not kept in memory: %s", asked[0], error.strerror)

    def _keep(self, model: str, folder: Path) -> None:
        files = {path: path.stat().st_size for path in sorted(folder.rglob("*.safetensors"))}
        self._kept.pop(model, None)
        if sum(files.values()) > self._most:
            return
        self._kept[model] = files
        while sum(size for one in self._kept.values() for size in one.values()) > self._most:
            _, old = self._kept.popitem(last=False)
            for path in old:
                _release(path)
        for path in files:
            self._read(path)

    def _read(self, path: Path) -> None:
        # Reading is the one way that is sure: of what it is advised to read, the kernel takes no more than it likes.
        room = bytearray(_CHUNK)
        with path.open("rb", buffering=0) as file:
            while not self._closed and file.readinto(room):
                self._may_read.wait()


def _release(path: Path) -> None:
    """The kernel need not keep it any more, where it takes such advice."""
    if not hasattr(os, "posix_fadvise") or not path.exists():
        return
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
