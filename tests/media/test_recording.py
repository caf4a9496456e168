"""The sound that somebody sent: what it holds is read, and what it cannot be made of is refused by its field."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from runs import watched
from test_encoders import fake

from framewright.errors import BadInput
from workers.media import recording
from workers.media.sound import Sound, write

HALF = Fraction(1, 2)


def sent(path: Path, rate: int, channels: int) -> Path:
    """A second of every channel at a level of its own."""
    levels = np.linspace(0.1, 0.9, channels)[None].repeat(rate, axis=0)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((levels * 32767).astype("<i2").tobytes())
    return path


def read(tmp_path: Path, rate: int, channels: int, ffmpeg: Path | None = None) -> Sound:
    run = watched(tmp_path / "work", {}, ffmpeg=ffmpeg).run
    return recording.sound(sent(tmp_path / "sent.wav", rate, channels), HALF, field="/input/audio", run=run)


@pytest.mark.parametrize(("rate", "channels"), [(4_000, 1), (384_000, 8)])
def test_a_sound_at_the_limits_is_read_as_it_is_and_can_be_written(tmp_path, rate, channels):
    heard = read(tmp_path, rate, channels)
    assert heard.rate == rate
    np.testing.assert_allclose(heard.samples[:, -1], np.linspace(0.1, 0.9, channels), atol=1e-4)
    written = write(heard, tmp_path / "written.wav", HALF)
    assert (written.rate, written.channels, written.count) == (rate, channels, rate // 2)


@pytest.mark.parametrize(
    ("rate", "channels", "why"),
    [
        (3_999, 1, "the sound has 3,999 samples a second, and 4,000 to 384,000 are read"),
        (384_001, 1, "the sound has 384,001 samples a second, and 4,000 to 384,000 are read"),
        (8_000, 9, "the sound has 9 channels, and 1 to 8 are read"),
    ],
)
def test_a_sound_that_could_not_be_written_is_refused_before_a_model_runs(tmp_path, rate, channels, why):
    with pytest.raises(BadInput, match=why) as refused:
        read(tmp_path, rate, channels)
    assert [one.pointer for one in refused.value.fields] == ["/input/audio"]


def test_what_ffmpeg_wrote_and_nobody_can_read_is_refused_with_the_field(tmp_path):
    binary = fake(tmp_path / "ffmpeg", "echo RIFF > recording.wav")
    with pytest.raises(BadInput, match="the sound cannot be decoded: ") as refused:
        read(tmp_path, 48_000, 1, binary)
    assert [one.pointer for one in refused.value.fields] == ["/input/audio"]
    assert str(tmp_path) not in str(refused.value)
    assert not list((tmp_path / "work").iterdir())
