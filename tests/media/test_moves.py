"""Camera moves as geometry."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest

from workers.media import moves
from workers.media.moves import Bent, Stage, Straight

STAGES = [
    Stage.covering((320, 180), (1600, 1000)),
    Stage.covering((180, 320), (1000, 1000)),
    Stage.covering((320, 180), (4000, 400)),
    Stage.covering((64, 36), (64, 36)),
]


def path(move: str, stage: Stage = STAGES[0], *, frames: int = 25, strength: float = 0.3, **more: object):
    return moves.path(move, frames=frames, fps=24, stage=stage, strength=strength, **more)


@pytest.mark.parametrize("move", moves.MOVES)
@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_no_frame_sees_beyond_the_still(move, stage):
    x, y = np.meshgrid(
        np.linspace(-stage.width / 2, stage.width / 2, 41), np.linspace(-stage.height / 2, stage.height / 2, 41)
    )
    for strength, frames in product((0.0, 0.05, 0.3, 1.0), (1, 2, 13)):
        for view in path(move, stage, frames=frames, strength=strength, seed=7):
            still_x, still_y = view.at(x, y)
            assert np.abs(still_x).max() <= stage.still_width / 2 + 1e-6
            assert np.abs(still_y).max() <= stage.still_height / 2 + 1e-6


@pytest.mark.parametrize("easing", moves.EASINGS)
def test_moves_begin_and_end_exactly_where_they_should(easing):
    def ends(move: str) -> tuple[moves.View, moves.View]:
        views = path(move, easing=easing)
        return views[0], views[-1]

    assert ends("zoom-in") == (Straight(0, 0, 1), Straight(0, 0, 1.3))
    assert ends("zoom-out") == (Straight(0, 0, 1.3), Straight(0, 0, 1))
    left, right = ends("pan-right")
    assert right.x - left.x == pytest.approx(0.3 * 320 / left.zoom)
    assert right.x + 160 / right.zoom == pytest.approx(STAGES[0].still_width / 2), "it ends at the still's edge"
    assert ends("pan-left") == (right, left)
    bottom, top = ends("tilt-up")
    assert bottom.y - top.y == pytest.approx(0.3 * 180 / top.zoom)
    assert ends("tilt-down") == (top, bottom)
    assert ends("dolly-out") == ends("dolly-in")[::-1]
    assert [view.angle for view in ends("orbit-right")] == pytest.approx([-0.105, 0.105])
    assert ends("orbit-left") == ends("orbit-right")[::-1]


@pytest.mark.parametrize(
    ("easing", "quarter", "half"),
    [("linear", 0.25, 0.5), ("ease-in", 0.0625, 0.25), ("ease-out", 0.4375, 0.75), ("ease-in-out", 0.15625, 0.5)],
)
def test_easings_are_these_curves(easing, quarter, half):
    ease = moves.EASINGS[easing]
    assert [ease(t) for t in (0.0, 0.25, 0.5, 1.0)] == [0.0, quarter, half, 1.0]
    steps = [ease(i / 100) for i in range(101)]
    assert all(before < after for before, after in pairwise(steps))


def test_a_zoom_grows_by_the_same_factor_in_every_frame():
    zooms = [view.zoom for view in path("zoom-in", easing="linear")]
    assert [b / a for a, b in pairwise(zooms)] == pytest.approx([1.3 ** (1 / 24)] * 24)


def test_a_picture_wide_enough_is_panned_over_without_zooming_in():
    views = path("pan-right", Stage.covering((320, 180), (4000, 400)))
    assert {view.zoom for view in views} == {1.0}


def test_a_dolly_starts_with_the_whole_picture_and_makes_the_ground_grow_most():
    first, last = path("dolly-in")[0], path("dolly-in")[-1]
    x, y = np.array([10.0, 10.0, 10.0]), np.array([-80.0, 0.0, 80.0])
    assert np.allclose(first.at(x, y), (x, y))
    growth = 10.0 / last.at(x, y)[0]
    assert growth[1] == pytest.approx(1.3)
    assert growth[0] < 1.3 < growth[2]


def test_an_orbit_passes_the_front_view_and_shows_the_nearer_side_larger():
    views = path("orbit-right", frames=25)
    x, y = np.linspace(-150, 150, 7), np.full(7, 50.0)
    front = views[12]
    assert isinstance(front, Bent)
    assert front.angle == 0
    assert np.allclose(front.at(x, y), (x / front.zoom, y / front.zoom))
    still_x, still_y = views[-1].at(x, y)
    assert still_x[3] == pytest.approx(0, abs=1e-9), "the middle stays in the middle"
    assert still_y[-1] < still_y[0], "the camera is on the right, so the right side is the nearer one"


@pytest.mark.parametrize("strength", [0.1, 0.3, 1.0])
def test_an_orbit_zooms_in_no_more_than_it_must(strength):
    stage = STAGES[3]  # exactly as large as the frame
    views = path("orbit-right", stage, strength=strength)
    looser = [replace(view, zoom=view.zoom - 0.002) for view in views]
    assert all(moves.inside(view, stage) for view in views)
    assert not all(moves.inside(view, stage) for view in looser)


def test_handheld_depends_on_its_seed_and_on_nothing_else():
    assert path("handheld", seed=4) == path("handheld", seed=4)
    assert path("handheld", seed=4) != path("handheld", seed=5)
    assert path("handheld", seed=4, frames=10)[3].at(np.zeros(1), np.zeros(1))[0] == pytest.approx(
        path("handheld", seed=4, frames=10, easing="ease-in")[3].at(np.zeros(1), np.zeros(1))[0]
    )


@pytest.mark.parametrize("seed", range(5))
def test_handheld_sways_smoothly_and_within_bounds(seed):
    sway = moves.Tremor(seed)
    fps = 60
    track = np.array([sway.at(i / fps) for i in range(fps * 20)])
    assert np.abs(track).max() <= 1
    assert np.ptp(track, axis=0).min() > 0.5, "it does move"
    # The fastest wave there is bounds how much the speed may change from frame to frame.
    fastest = (math.tau * max(moves._TREMOR_HZ) / fps) ** 2 / (max(moves._TREMOR_HZ) * sway._sum)
    assert np.abs(np.diff(track, 2, axis=0)).max() <= fastest * len(moves._TREMOR_HZ)


def test_an_unknown_move_is_refused():
    with pytest.raises(ValueError, match="no move"):
        path("teleport")
