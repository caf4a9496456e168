"""A still seen through a `View`: exact to a small part of a pixel, and without aliasing however small it is shown.

Views that look straight are Lanczos resampling of a box with fractional edges, in one step; Pillow widens the filter
as the picture shrinks, so nothing aliases and nothing pops. Tilted and bent views go by Pillow's transform, which
computes places in doubles but knows no minification. So the still is first brought to the resolution of its smallest
part on show, which removes what would alias, and then oversampled by Lanczos, so that the interpolation between its
pixels, bilinear, costs little sharpness. (Pillow's bicubic transform looks sharper, but its kernel shifts what it
interpolates by up to a tenth of a pixel, to and fro as the picture moves: visible as jitter.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from workers.media.moves import Bent, Flat, Stage, Straight, View

OVERSAMPLE = 3.0
_OVERSAMPLE_EACH = 2.0  # the same where it is done for every frame
_SPARE = 2.0  # still pixels per frame pixel that straight views keep to choose from; more is shrunk once, beforehand
_MOST_PIXELS = 48_000_000  # of the oversampled still
_STRIP = 16  # columns of the frame that a bent view takes as linear: off by less than 1/1000 pixel
_MARGIN = 8
_LANCZOS = Image.Resampling.LANCZOS


def renderer(still: Image.Image, stage: Stage, views: Sequence[View]) -> Callable[[View], Image.Image]:
    """A function that renders any of `views` as an RGB image of the stage's size; it may be called from threads."""
    density = still.width / stage.still_width
    if all(isinstance(view, Straight) for view in views):
        tightest = max(view.zoom for view in views if isinstance(view, Straight))
        kept = _shrunk(still, _SPARE * tightest / density)
        return lambda view: _straight(kept, stage, view)
    shown = np.array([_resolution(view, stage) for view in views])
    least, most = shown.min(axis=0), shown.max(axis=0)
    if isinstance(views[0], Flat) and (least < 0.97 * most).any() and (least < density).any():
        # A dolly over a large still: what is fine enough for its near end would alias at its far end.
        kept = _shrunk(still, _SPARE * float(most.max()) / density)
        return lambda view: _warped(_Layer.part(kept, stage, view), stage, view)
    layer = _Layer.whole(_shrunk(still, *(least / density).tolist()), stage)
    return lambda view: _warped(layer, stage, view)


def _shrunk(still: Image.Image, across: float, down: float | None = None) -> Image.Image:
    across, down = min(1.0, across), min(1.0, across if down is None else down)
    if across == down == 1:
        return still
    return still.resize((max(1, round(still.width * across)), max(1, round(still.height * down))), _LANCZOS)


def _straight(still: Image.Image, stage: Stage, view: View) -> Image.Image:
    left, top = (float(edge[0]) for edge in view.at(_one(-stage.width / 2), _one(-stage.height / 2)))
    right, bottom = (float(edge[0]) for edge in view.at(_one(stage.width / 2), _one(stage.height / 2)))
    across, down = still.width / stage.still_width, still.height / stage.still_height
    box = (
        max(0.0, still.width / 2 + left * across),
        max(0.0, still.height / 2 + top * down),
        min(float(still.width), still.width / 2 + right * across),
        min(float(still.height), still.height / 2 + bottom * down),
    )
    return still.resize((stage.width, stage.height), _LANCZOS, box)


class _Layer:
    """Part of the still, ready to be warped: pixel (0, 0) begins at (left, top) of the still, in frame pixels."""

    def __init__(self, image: Image.Image, left: float, top: float, across: float, down: float) -> None:
        self.image, self.left, self.top, self.across, self.down = image, left, top, across, down

    @classmethod
    def whole(cls, still: Image.Image, stage: Stage) -> _Layer:
        more = min(OVERSAMPLE, math.sqrt(_MOST_PIXELS / (still.width * still.height)))
        image = still
        if more > 1:
            image = still.resize((round(still.width * more), round(still.height * more)), _LANCZOS)
        return cls(
            image,
            -stage.still_width / 2,
            -stage.still_height / 2,
            image.width / stage.still_width,
            image.height / stage.still_height,
        )

    @classmethod
    def part(cls, still: Image.Image, stage: Stage, view: View) -> _Layer:
        """What `view` shows, at the resolution of its smallest part, and then oversampled."""
        x, y = _grid(stage, 9)
        still_x, still_y = view.at(x, y)
        across, down = still.width / stage.still_width, still.height / stage.still_height
        left = max(0, math.floor(still.width / 2 + still_x.min() * across) - _MARGIN)
        top = max(0, math.floor(still.height / 2 + still_y.min() * down) - _MARGIN)
        right = min(still.width, math.ceil(still.width / 2 + still_x.max() * across) + _MARGIN)
        bottom = min(still.height, math.ceil(still.height / 2 + still_y.max() * down) + _MARGIN)
        finest = _resolution(view, stage)
        size = (
            math.ceil((right - left) * min(1.0, finest[0] / across)),
            math.ceil((bottom - top) * min(1.0, finest[1] / down)),
        )
        small = still.resize(size, _LANCZOS, (left, top, right, bottom))
        image = small.resize((round(size[0] * _OVERSAMPLE_EACH), round(size[1] * _OVERSAMPLE_EACH)), _LANCZOS)
        return cls(
            image,
            left / across - stage.still_width / 2,
            top / down - stage.still_height / 2,
            image.width / (right - left) * across,
            image.height / (bottom - top) * down,
        )

    def x(self, still_x: float) -> float:
        return (still_x - self.left) * self.across

    def y(self, still_y: float) -> float:
        return (still_y - self.top) * self.down


def _warped(layer: _Layer, stage: Stage, view: View) -> Image.Image:
    size = (stage.width, stage.height)
    if isinstance(view, Flat):
        place = np.array([[layer.across, 0, layer.x(0)], [0, layer.down, layer.y(0)], [0, 0, 1]])
        middle = np.array([[1, 0, -stage.width / 2], [0, 1, -stage.height / 2], [0, 0, 1]])
        matrix = place @ np.array([*view.matrix, 1.0]).reshape(3, 3) @ middle
        data = tuple((matrix / matrix[2, 2]).ravel()[:8].tolist())
        return layer.image.transform(size, Image.Transform.PERSPECTIVE, data, Image.Resampling.BILINEAR)
    if isinstance(view, Bent):
        return layer.image.transform(size, Image.Transform.MESH, _strips(layer, stage, view), Image.Resampling.BILINEAR)
    raise TypeError(f"{type(view).__name__} is not a warp")


def _strips(layer: _Layer, stage: Stage, view: Bent) -> list[tuple[tuple[int, int, int, int], tuple[float, ...]]]:
    edges = [*range(0, stage.width, _STRIP), stage.width]
    columns, scales = view.columns(np.array(edges, np.float64) - stage.width / 2)
    half = stage.height / 2
    corners = [
        (layer.x(x), layer.y(-half * scale), layer.y(half * scale))
        for x, scale in zip(columns.tolist(), scales.tolist(), strict=True)
    ]
    return [
        (
            (left, 0, right, stage.height),
            (near[0], near[1], near[0], near[2], far[0], far[2], far[0], far[1]),
        )
        for left, right, near, far in zip(edges, edges[1:], corners, corners[1:], strict=False)
    ]


def _resolution(view: View, stage: Stage) -> tuple[float, float]:
    """Pixels per frame pixel of still, across and down, that hold all there is to see where it is shown smallest."""
    x, y = _grid(stage, 9)
    at, right, below = view.at(x, y), view.at(x + 1, y), view.at(x, y + 1)
    across, down = (float(np.hypot(right[axis] - at[axis], below[axis] - at[axis]).max()) for axis in (0, 1))
    return 1 / across, 1 / down


def _grid(stage: Stage, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Points all over the frame, each with a neighbour one pixel to the right and below that is in the frame too."""
    x, y = np.meshgrid(
        np.linspace(-stage.width / 2, stage.width / 2 - 1, points),
        np.linspace(-stage.height / 2, stage.height / 2 - 1, points),
    )
    return x.ravel(), y.ravel()


def _one(value: float) -> np.ndarray:
    return np.array([value])
