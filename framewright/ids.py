"""Public identifiers: UUIDv7 (RFC 9562, 5.7) behind a type prefix; ids sort by time and say what they name."""

from __future__ import annotations

import os
import threading
import time
from uuid import UUID

from framewright.errors import NotFound

JOB = "job"
ASSET = "asset"
UPLOAD = "upload"

_lock = threading.Lock()
_last = 0


def uuid7() -> UUID:
    """A UUIDv7 that is strictly increasing within this process (48 bits of ms, 12 bits of sub-ms, 62 random)."""
    global _last  # noqa: PLW0603 - monotonicity is a property of the process
    now_ns = time.time_ns()
    stamp = ((now_ns // 1_000_000) << 12) | ((now_ns % 1_000_000) * 4096 // 1_000_000)
    with _lock:
        stamp = max(stamp, _last + 1)
        _last = stamp
    random = int.from_bytes(os.urandom(8)) & ((1 << 62) - 1)
    return UUID(int=((stamp >> 12) << 80) | (0x7 << 76) | ((stamp & 0xFFF) << 64) | (0b10 << 62) | random)


def public(prefix: str, value: UUID) -> str:
    """`job_0190f7c2…`: the prefix and 32 lower-case hex digits."""
    return f"{prefix}_{value.hex}"


def step_label(job: UUID, step: object) -> str:
    """A step as every log line names it, `job_0190f7c2… step main`: who looks for a job finds all of its lines."""
    return f"{public(JOB, job)} step {step}"


def parse(prefix: str, text: str) -> UUID:
    """The UUID behind a public id; anything else is `NotFound`, the answer an unknown id gets."""
    head, _, digits = text.partition("_")
    if head == prefix and len(digits) == 32 and set(digits) <= set("0123456789abcdef"):
        return UUID(hex=digits)
    raise NotFound(f"no such {prefix}")
