"""Work done a little ahead of its turn, in order: two cores render or decode while ffmpeg takes frame after frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Done = TypeVar("Done")

THREADS = 2


def ahead(work: Callable[[Task], Done], tasks: Iterable[Task], *, window: int = THREADS + 1) -> Iterator[Done]:
    """`map(work, tasks)` on two threads, never more than `window` results in memory.

    What `work` raises is raised at its turn. Closing the iterator waits for the few calls under way.
    """
    with ThreadPoolExecutor(THREADS, thread_name_prefix="frames") as pool:
        waiting: deque[Future[Done]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(work, task))
                if len(waiting) >= window:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
