"""Several files of a model at once: threads that share one count of bytes and one word to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from framewright.models.fetch import fetch, held
from framewright.models.hub import Hub
from framewright.models.manifest import File, Manifest

_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pull or a check is, in bytes; `file` is the one that has just come to its end."""

    model: str
    done: int
    total: int
    file: str | None = None


Report = Callable[[Progress], None]


class _Given(Exception):
    """Another file could not be had, so this one is given up."""


def fetch_all(
    hub: Hub, manifest: Manifest, folder: Path, files: list[File], *, report: Report, stop: threading.Event
) -> None:
    """Several files at once; the first that cannot be had ends all. The threads die with the process."""
    todo: SimpleQueue[File] = SimpleQueue()
    for file in sorted(files, key=lambda file: -file.size):
        todo.put(file)
    begun = sum(held(folder, file) for file in files)
    count = _Count(manifest, manifest.size - sum(file.size for file in files) + begun, report, stop)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                file = todo.get_nowait()
                fetch(hub, manifest.sources[file.of], file, folder, count.landed)
                count.ended(file)
        except (Empty, _Given):
            return
        except BaseException as error:  # noqa: BLE001 - it is raised again by the thread that asked
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(_AT_ONCE, len(files)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
    if failures:
        raise failures[0]


class _Count:
    """Bytes on disk, counted by all threads and reported by one at a time."""

    def __init__(self, manifest: Manifest, done: int, report: Report, stop: threading.Event) -> None:
        self.manifest, self.done, self.report, self.stop = manifest, done, report, stop
        self.lock = threading.Lock()
        self.landed(0)

    def landed(self, count: int) -> None:
        if self.stop.is_set():
            raise _Given
        self._tell(count, None)

    def ended(self, file: File) -> None:
        self._tell(0, file.path)

    def _tell(self, count: int, file: str | None) -> None:
        with self.lock:
            self.done += count
            self.report(Progress(self.manifest.model, self.done, self.manifest.size, file))


def pausing(stop: threading.Event) -> Callable[[float], None]:
    """Real pauses, which end early when the pull does."""

    def wait(seconds: float) -> None:
        if stop.wait(seconds):
            raise _Given

    return wait
