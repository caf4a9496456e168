"""Waiting for something to become true, never for a time to pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")


def until(what: Callable[[], T], deadline_s: float = 60) -> T:
    """Asks until the answer is true and returns it; the test fails with the last answer when that never happens."""
    give_up = time.monotonic() + deadline_s
    while not (answer := what()):
        if time.monotonic() > give_up:
            pytest.fail(f"waited {deadline_s} s in vain, the last answer was {answer!r}")
        time.sleep(0.02)
    return answer
