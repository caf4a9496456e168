"""Work that may hang for as long as S3 pleases, on threads that can be left behind."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from framewright.errors import Canceled

GRACE_S: Final = 3.0
"""What work that was told to stop is given to notice, and to take back what it began."""
_LOOK_S: Final = 0.1
T = TypeVar("T")
Stop = Callable[[], bool]
"""Says whether to stop; once it said so it keeps saying so."""


def run(job: Callable[[Stop], T], over: Stop) -> T:
    """What `job` answers; `Canceled` when `over` says so and it does not end in time. See `each`."""
    return each([job], 1, over)[0]


def each(jobs: Sequence[Callable[[Stop], T]], at_once: int, over: Stop) -> list[T]:
    """What the jobs answer, in no order, with `at_once` of them under way at a time; or the first error.

    Once one failed, or `over` says so, none is begun and each under way is told by its `Stop`. One that has not ended
    `GRACE_S` later is left behind, on a daemon thread: a read from an S3 that hangs cannot be broken off.
    """
    waiting, answers, errors = deque(jobs), list[T](), list[BaseException]()
    changed = threading.Condition()
    busy = min(at_once, len(jobs))

    def told() -> bool:
        return bool(errors) or over()

    def work() -> None:
        nonlocal busy
        try:
            while not told():
                with changed:
                    if not waiting:
                        break
                    job = waiting.popleft()
                answers.append(job(told))
        except BaseException as error:  # noqa: BLE001 - raised again below, where somebody acts on it
            errors.append(error)
        with changed:
            busy -= 1
            changed.notify_all()

    for _ in range(busy):
        threading.Thread(target=work, name="aside", daemon=True).start()
    give_up = float("inf")
    with changed:
        while busy and time.monotonic() < give_up:
            changed.wait(_LOOK_S)
            if give_up == float("inf") and told():
                give_up = time.monotonic() + GRACE_S
    if errors:
        raise errors[0]
    if len(answers) < len(jobs):
        raise Canceled("told to stop while moving files")
    return answers
