"""Which sounds are read and written, one that is sent and one that a model makes alike. Knows no decoder."""

from __future__ import annotations

from typing import Final

LEAST_RATE: Final = 4_000
MOST_RATE: Final = 384_000
MOST_CHANNELS: Final = 8


def objection(rate: int, channels: int) -> str | None:
    """The sentence that refuses a sound of so many samples a second in so many channels; None for one that is read."""
    if not LEAST_RATE <= rate <= MOST_RATE:
        return f"the sound has {rate:,} samples a second, and {LEAST_RATE:,} to {MOST_RATE:,} are read"
    if not 1 <= channels <= MOST_CHANNELS:
        return f"the sound has {channels} channels, and 1 to {MOST_CHANNELS} are read"
    return None
