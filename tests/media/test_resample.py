"""Stills seen through views: where things land, and what happens to detail that is too fine."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from workers.media import moves, resample
from workers.media.moves import Stage

FRAME = (320, 180)
SIGMA = 2.5


def dots(size: tuple[int, int], places: list[tuple[float, float]], sigma: float) -> Image.Image:
    """Soft white dots on black at these places (pixels of the still, from its upper left corner)."""
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    light = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2)) for px, py in places)
    return Image.fromarray(np.rint(np.clip(light * 255, 0, 255)).astype(np.uint8)).convert("RGB")


def seen_at(view: moves.View, x: float, y: float) -> tuple[float, float]:
    """The point of the frame that shows that point of the still: the view, inverted by Newton's method."""
    at = np.array([x, y])
    for _ in range(20):
        here = np.array([part[0] for part in view.at(at[:1], at[1:])])
        step = np.column_stack(
            [[part[0] for part in view.at(at[:1] + dx, at[1:] + dy)] - here for dx, dy in ((0.01, 0.0), (0.0, 0.01))]
        )
        at = at - np.linalg.solve(step / 0.01, here - [x, y])
    return float(at[0]), float(at[1])


def off_by(frame: Image.Image, expected: tuple[float, float]) -> tuple[float, float]:
    """How far from there (frame pixels from the middle) the dot is: light weighed by a bell of about its own width.

    Two bells of one width meet half way between their middles, hence the factor. Without the weights the rounding of
    the dark around the dot, far out on a long lever, would be most of what is measured.
    """
    grey = np.asarray(frame.convert("L"), np.float64)
    x, y = np.meshgrid(
        np.arange(FRAME[0]) + 0.5 - FRAME[0] / 2 - expected[0], np.arange(FRAME[1]) + 0.5 - FRAME[1] / 2 - expected[1]
    )
    weight = grey * np.exp(-(x**2 + y**2) / (2 * SIGMA**2))
    return 2 * float((weight * x).sum() / weight.sum()), 2 * float((weight * y).sum() / weight.sum())


@pytest.mark.parametrize("size", [(640, 400), (320, 180), (900, 506)], ids=str)
@pytest.mark.parametrize("move", moves.MOVES)
def test_what_is_seen_moves_as_computed_to_a_twentieth_of_a_pixel_without_jitter(move, size):
    stage = Stage.covering(FRAME, size)
    scale = size[0] / stage.still_width
    places = [(size[0] / 2 + dx * scale, size[1] / 2 + dy * scale) for dx, dy in ((0, 0), (-60, -25), (55, 30))]
    still = dots(size, places, SIGMA * scale)
    views = moves.path(move, frames=24, fps=24, stage=stage, strength=0.25, easing="ease-in-out", seed=3)
    render = resample.renderer(still, stage, views)
    frames = [render(view) for view in views]
    for px, py in places:
        expected = [seen_at(view, (px - size[0] / 2) / scale, (py - size[1] / 2) / scale) for view in views]
        off = np.array([off_by(frame, at) for frame, at in zip(frames, expected, strict=True)])
        assert np.abs(off).max() < 0.04
        jitter = np.diff(off, 2, axis=0)
        # What rounding to 8 bits does to a soft dot is about 0.01.
        assert np.sqrt((jitter**2).mean(axis=0)).max() < 0.022, "from frame to frame it goes on as it went"


@pytest.mark.parametrize("move", ["zoom-in", "pan-right", "orbit-left", "dolly-in", "handheld"])
def test_detail_too_fine_for_the_frame_turns_grey_instead_of_into_patterns(move):
    """A zone plate: rings that get finer outwards, up to what the still can hold, shown at a third of its size."""
    side, shown = 960, 320
    x, y = np.meshgrid(np.arange(side) - side / 2, np.arange(side) - side / 2)
    away = np.hypot(x, y)
    rings = Image.fromarray((127.5 + 127.5 * np.cos(np.pi * away**2 / side)).astype(np.uint8)).convert("RGB")
    stage = Stage.covering((shown, shown), (side, side))
    views = moves.path(move, frames=9, fps=24, stage=stage, strength=0.3, easing="linear", seed=1)
    render = resample.renderer(rings, stage, views)
    middle = np.arange(shown) + 0.5 - shown / 2
    for view in views:
        frame = np.asarray(render(view).convert("L"), np.float64)
        still_x, still_y = view.at(*(part.ravel() for part in np.meshgrid(middle, middle)))
        radius = np.hypot(still_x, still_y).reshape(frame.shape)  # frame pixels at rest; the still has 3 for each
        magnified = shown / np.ptp(still_x)
        # Cycles per frame pixel: 3 x (radius x 3) / side in the still, stretched by the view.
        cycles = 9 * radius / side / magnified
        lost, kept = frame[cycles > 0.85], frame[cycles < 0.15]
        assert lost.size > 500
        assert lost.std() < 8, "a pattern that the still does not have"
        assert kept.std() > 60, "and what fits in the frame is still there"


def test_a_zoom_begins_with_the_plain_resize():
    still = Image.fromarray(np.random.default_rng(1).integers(0, 255, (400, 640, 3), np.uint8))
    stage = Stage.covering(FRAME, still.size)
    views = moves.path("zoom-in", frames=5, fps=24, stage=stage, strength=0.3)
    first = resample.renderer(still, stage, views)(views[0])
    plain = still.resize(FRAME, Image.Resampling.LANCZOS, (0, 20, 640, 380))
    assert first.tobytes() == plain.tobytes()


@pytest.mark.parametrize("size", [(50, 37), (641, 333), (200, 900)], ids=str)
@pytest.mark.parametrize("move", moves.MOVES)
def test_no_border_ever_enters_the_frame(move, size):
    still = Image.new("RGB", size, (255, 255, 255))
    stage = Stage.covering((96, 64), size)
    for strength in (0.0, 0.3, 1.0):
        views = moves.path(move, frames=7, fps=24, stage=stage, strength=strength, seed=2)
        render = resample.renderer(still, stage, views)
        assert all(min(low for low, _ in render(view).getextrema()) == 255 for view in views)


@pytest.mark.parametrize("move", ["zoom-in", "orbit-right", "dolly-out", "handheld"])
def test_the_same_view_of_the_same_still_is_the_same_picture(move):
    still = Image.fromarray(np.random.default_rng(2).integers(0, 255, (300, 500, 3), np.uint8))
    stage = Stage.covering(FRAME, still.size)

    def rendered() -> list[bytes]:
        views = moves.path(move, frames=3, fps=24, stage=stage, strength=0.4, seed=9)
        return [resample.renderer(still, stage, views)(view).tobytes() for view in views]

    assert rendered() == rendered()
