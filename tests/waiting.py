"""Waiting for something to become true, never for a time to pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")


def until(what: Callable[[], T], deadline_s: float = 60, *, every_s: float = 0.1) -> T:
    """Asks until the answer is true and returns it; the test fails with the last answer when that never happens.

    Often at first and later only `every_s`: what is asked has to get on with its work meanwhile.
    """
    give_up, pause = time.monotonic() + deadline_s, 0.02
    while not (answer := what()):
        if time.monotonic() > give_up:
            pytest.fail(f"waited {deadline_s} s in vain, the last answer was {answer!r}")
        time.sleep(pause)
        pause = min(every_s, pause * 1.2)
    return answer
