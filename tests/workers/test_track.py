"""Progress never falls, never promises the end, and does not mistake repetition for movement."""

from __future__ import annotations

import random

import pytest

from framewright.jobs import Eta, Phase, Progress
from workers.halt import Halt, Why
from workers.track import SILENT_S, Track


def test_whatever_is_reported_the_fraction_never_falls_and_stays_below_one():
    rng = random.Random(4)
    seen: list[Progress] = []
    track = Track(seen.append)
    for _ in range(500):
        track.report(
            Progress(fraction=rng.uniform(-1, 3), phase=rng.choice(list(Phase)), frames_done=rng.randrange(99))
        )
    fractions = [snapshot.fraction for snapshot in seen]
    frames = [snapshot.frames_done for snapshot in seen]
    assert fractions == sorted(fractions)
    assert frames == sorted(frames)
    assert fractions[0] >= 0
    assert fractions[-1] <= 0.99


def test_the_same_report_again_is_no_movement_and_is_not_published():
    seen: list[Progress] = []
    track = Track(seen.append)
    track.report(Progress(fraction=0.5, phase=Phase.RENDERING, frames_done=5, frames_total=10))
    moves = track.moves
    for _ in range(10):
        track.report(Progress(fraction=0.5, phase=Phase.RENDERING, frames_done=5, frames_total=10))
        track.report(Progress(fraction=0.4, phase=Phase.RENDERING, frames_done=4, frames_total=10))
    assert track.moves == moves
    assert len(seen) == 1
    track.report(Progress(fraction=0.5, phase=Phase.RENDERING, frames_done=6, frames_total=10))
    assert track.moves == moves + 1


def test_going_back_and_forth_between_phases_is_no_movement():
    track = Track(lambda _: None)
    for phase in (Phase.RENDERING, Phase.ENCODING):
        track.report(Progress(fraction=0.5, phase=phase))
    moves = track.moves
    for _ in range(10):
        track.report(Progress(fraction=0.5, phase=Phase.RENDERING))
        track.report(Progress(fraction=0.5, phase=Phase.ENCODING))
    assert track.moves == moves


def test_a_phase_that_counts_no_frames_keeps_the_last_count():
    seen: list[Progress] = []
    track = Track(seen.append)
    track.report(Progress(fraction=1.0, phase=Phase.RENDERING, frames_done=10, frames_total=10))
    track.report(Progress(fraction=0.5, phase=Phase.UPLOADING))
    assert (seen[-1].frames_done, seen[-1].frames_total, seen[-1].phase) == (10, 10, Phase.UPLOADING)
    assert seen[0].fraction < seen[-1].fraction <= 0.99


def test_an_eta_appears_once_there_is_something_to_go_by():
    seen: list[Progress] = []
    track = Track(seen.append)
    track.report(Progress(fraction=0.01, phase=Phase.RENDERING))
    track.report(Progress(fraction=0.5, phase=Phase.RENDERING))
    track.report(Progress(fraction=0.6, phase=Phase.RENDERING, eta=Eta(7.0, 9.0, "measured")))
    assert seen[0].eta is None
    assert seen[1].eta is not None
    assert seen[1].eta[1:] == (None, "current_step")
    assert seen[2].eta == (7.0, 9.0, "measured")


def test_a_stronger_reason_to_stop_replaces_a_weaker_one_and_never_the_other_way():
    asked: list[Why] = []
    halt = Halt(cancel_grace_s=1000, drain_grace_s=2000, on_ask=asked.append)
    assert not halt.over
    halt.ask(Why.YIELD)
    halt.ask(Why.YIELD)
    first = halt.deadline
    halt.ask(Why.LOST)
    halt.ask(Why.YIELD_NOW)
    assert asked == [Why.YIELD, Why.LOST]
    assert halt.deadline < first
    assert halt.over
    assert not halt.yielding


def test_being_told_twice_ends_patience_at_once():
    halt = Halt(cancel_grace_s=1000, drain_grace_s=2000, on_ask=lambda _: None)
    halt.ask(Why.YIELD)
    assert not halt.over
    halt.ask(Why.YIELD_NOW)
    assert halt.over
    assert halt.yielding


def test_signing_comes_between_checking_and_uploading() -> None:
    shown: list[float] = []
    track = Track(lambda progress: shown.append(progress.fraction))
    for phase in (Phase.CHECKING, Phase.SIGNING, Phase.UPLOADING):
        track.report(Progress(fraction=1.0, phase=phase))
    assert shown == [0.97, 0.97, 0.99]


SILENT = {Phase.LOADING_MODEL, Phase.ENCODING_PROMPT, Phase.UPSCALING, Phase.DECODING}


@pytest.mark.parametrize("phase", Phase)
def test_only_a_phase_that_cannot_tell_how_far_it_is_may_be_silent_for_long(phase: Phase) -> None:
    track = Track(lambda _: None)
    track.report(Progress(0.1, phase))
    patience_s = track.quiet_until(120) - track.moved_at
    assert (track.patient, round(patience_s)) == ((True, SILENT_S) if phase in SILENT else (False, 120))
    assert round(track.quiet_until(2 * SILENT_S) - track.moved_at) == 2 * SILENT_S


def test_patience_ends_and_does_not_outlive_its_phase() -> None:
    track = Track(lambda _: None)
    track.report(Progress(0.1, Phase.DECODING))
    track.moved_at -= SILENT_S
    assert not track.patient
    track.report(Progress(0.2, Phase.ENCODING))
    assert (track.patient, round(track.quiet_until(120) - track.moved_at)) == (False, 120)
