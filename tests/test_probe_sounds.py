"""Which sounds an upload may hold: those that every later step can read and write."""

from __future__ import annotations

import io
import wave

import pytest
from test_probe import probed

from framewright.errors import UnsupportedMedia
from framewright.probe import Probed


def wav(rate: int, channels: int) -> bytes:
    """Half a second of it, to the sample."""
    packed = io.BytesIO()
    with wave.open(packed, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(rate // 2 * channels * 2))
    return packed.getvalue()


@pytest.mark.parametrize(
    ("rate", "channels", "why"),
    [
        (3_999, 1, "the sound has 3,999 samples a second, and 4,000 to 384,000 are read"),
        (384_001, 2, "the sound has 384,001 samples a second, and 4,000 to 384,000 are read"),
        (48_000, 9, "the sound has 9 channels, and 1 to 8 are read"),
    ],
)
def test_a_sound_of_a_rate_or_channels_that_no_model_takes_is_refused(tmp_path, rate, channels, why):
    with pytest.raises(UnsupportedMedia, match=f"^{why}$"):
        probed(tmp_path, wav(rate, channels))


@pytest.mark.parametrize(("rate", "channels"), [(4_000, 1), (384_000, 8)])
def test_the_limits_of_a_sound_are_within_it(tmp_path, rate, channels):
    assert probed(tmp_path, wav(rate, channels)) == Probed("other", "audio/wav", duration_s=0.5)
