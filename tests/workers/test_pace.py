"""How far a step is, what it takes, and what comes after the last one, on a clock that the tests move."""

from __future__ import annotations

import pytest

from framewright.jobs import Phase, Progress
from workers.diffusion.pace import Blocks, Each, Pace, Past
from workers.track import Track


class Clock:
    """A time that a test moves."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def test_a_step_that_takes_long_moves_with_each_of_its_blocks() -> None:
    now, track = Clock(), Track(lambda _: None)
    blocks, stall_s, block_s = Blocks(40, lambda: None, now), 120, 20.0
    parts = [0.0]
    for step in range(3):
        for _ in range(80):
            moves, part = track.moves, blocks.begin()
            if part is not None:
                track.report(Progress((step + part) / 3, Phase.DENOISING))
                parts.append(step + part)
            assert track.moves > moves or part in (0.0, None)
            now.at += block_s
        blocks.stepped()
    assert parts == sorted(parts)
    assert parts[-1] == pytest.approx(3 - 1 / 80)
    # Never longer without a word than the two blocks that begin a step take.
    assert len(parts) >= 3 * 78
    assert 2 * block_s < stall_s


def test_blocks_that_take_no_time_are_hardly_ever_told_of() -> None:
    now, waited = Clock(), []
    blocks = Blocks(40, lambda: waited.append(now.at), now)
    for _ in range(100):
        for _ in range(40):
            blocks.begin()
            now.at += 0.0005
        blocks.stepped()
    # Two seconds: once at the beginning, once a step, once a second.
    assert len(waited) <= 100 + 1 + 2


def test_a_step_takes_what_passes_between_its_begin_and_its_end() -> None:
    now = Clock()
    pace = Pace(now)
    now.at += 50.0
    pace.end()
    assert pace.each is None
    for seconds in (2.0, 4.0):
        now.at += 100.0
        pace.begin()
        now.at += seconds
        pace.end()
    assert pace.each == (3.0, pytest.approx(3.8), "measured")
    pace.forget()
    assert pace.each is None


def test_what_comes_after_the_last_step_is_known_from_the_run_before() -> None:
    past = Past()
    assert past.ending_s(1000, "h264") is None
    past.learn_ending(1000, "h264", decoding_s=4.0, encoding_s=2.0)
    assert past.ending_s(2000, "h264") == 12.0
    assert past.ending_s(2000, "webm") == 8.0


def test_a_step_is_expected_to_take_what_its_operations_took_in_the_run_before() -> None:
    past = Past()
    assert past.each(1e12) is None
    past.learn(Each(2.0, 3.0), 1e12)
    past.learn(None, 1e15)
    assert past.each(5e11) == (1.0, 1.5, "measured")
