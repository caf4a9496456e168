"""Camera moves as geometry: where, on a still, each pixel of each frame is looked up. Pure arithmetic, no pixels.

Coordinates have their origin in the middle and the unit of one pixel of the frame. The still is laid under the frame
so that it just covers it; `Stage` says how far it reaches. A `View` answers, for a point of the frame, which point of
the still is seen there.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
MOVES = (
    *("zoom-in", "zoom-out", "pan-left", "pan-right", "tilt-up", "tilt-down"),
    *("orbit-left", "orbit-right", "dolly-in", "dolly-out", "handheld"),
)

EASINGS: Mapping[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    "ease-in": lambda t: t * t,
    "ease-out": lambda t: t * (2 - t),
    "ease-in-out": lambda t: t * t * (3 - 2 * t),
}
_GROUND = 0.25  # how much nearer than the middle the bottom edge of the still is taken to be, in inverse depth
_FOCAL = 1.2  # focal length in frame widths: the angle of a normal lens
_BULGE = 0.14  # how much farther than the middle the sides of the still are, as a part of the distance
_TURN = 0.35  # radians to either side at full strength
_SWAY, _ROLL = 0.04, math.radians(2.0)  # handheld at full strength: part of the frame's width, and angle
_TREMOR_HZ = (0.23, 0.37, 0.61, 0.97, 1.53, 2.41)


@dataclass(frozen=True, slots=True)
class Stage:
    """Sides of the frame, and of the still under it (frame pixels, so never smaller than the frame)."""

    width: int
    height: int
    still_width: float
    still_height: float

    @classmethod
    def covering(cls, frame: tuple[int, int], still: tuple[int, int]) -> Stage:
        """The still, of that many of its own pixels, scaled until it covers the frame."""
        scale = max(frame[0] / still[0], frame[1] / still[1])
        return cls(*frame, still[0] * scale, still[1] * scale)


class View(Protocol):
    """What one frame sees."""

    def at(self, x: Array, y: Array) -> tuple[Array, Array]:
        """The points of the still that are seen at these points of the frame."""


@dataclass(frozen=True, slots=True)
class Straight:
    """Looks straight at the still, at the point (x, y), `zoom` times as large."""

    x: float
    y: float
    zoom: float

    def at(self, x: Array, y: Array) -> tuple[Array, Array]:
        return self.x + x / self.zoom, self.y + y / self.zoom


@dataclass(frozen=True, slots=True)
class Flat:
    """Looks at the still as a plane in space: a homography, rows (a b c)(d e f)(g h 1)."""

    matrix: tuple[float, float, float, float, float, float, float, float]

    def at(self, x: Array, y: Array) -> tuple[Array, Array]:
        a, b, c, d, e, f, g, h = self.matrix
        w = g * x + h * y + 1
        return (a * x + b * y + c) / w, (d * x + e * y + f) / w


@dataclass(frozen=True, slots=True)
class Bent:
    """Looks from `angle` (radians) to the side at the still painted on a wall that curves away to both sides.

    The wall is z = `focal` + `curve` x²; seen from the front it shows exactly the still. The camera keeps its distance
    from the middle and keeps looking at it, so the middle stays where it is and the sides move against it.
    """

    angle: float
    focal: float
    curve: float
    zoom: float

    def columns(self, x: Array) -> tuple[Array, Array]:
        """For points of the frame with that x: the x of the still they see, and by what their y is multiplied.

        Both depend on x alone, because the wall and the camera's way are upright. NaN where the wall is not hit.
        """
        sine, cosine = math.sin(self.angle), math.cos(self.angle)
        along = x / (self.zoom * self.focal)
        ray_x, ray_z = along * cosine - sine, along * sine + cosine
        eye_x, eye_z = self.focal * sine, self.focal * (1 - cosine)
        square = self.curve * ray_x**2
        linear = 2 * self.curve * eye_x * ray_x - ray_z
        constant = self.curve * eye_x**2 + self.focal - eye_z
        with np.errstate(invalid="ignore"):
            far = 2 * constant / (np.sqrt(linear**2 - 4 * square * constant) - linear)
        depth = eye_z + far * ray_z
        return self.focal * (eye_x + far * ray_x) / depth, far / (depth * self.zoom)

    def at(self, x: Array, y: Array) -> tuple[Array, Array]:
        still_x, scale = self.columns(x)
        return still_x, y * scale


def path(
    move: str, *, frames: int, fps: float, stage: Stage, strength: float, easing: str = "linear", seed: int = 0
) -> list[View]:
    """What each frame of the move sees, none of it beyond the still's edges.

    `strength` 0..1: a zoom or dolly ends `strength` nearer (0.3: 1.3 times as large); a pan or tilt travels `strength`
    frames; an orbit turns 20 degrees times `strength` to either side; handheld sways and rolls in proportion. The
    seed decides handheld alone, which eases nothing: a hand does not know when the clip ends.
    """
    ease = EASINGS[easing]
    times = [ease(index / (frames - 1)) if frames > 1 else 0.0 for index in range(frames)]
    kind, _, way = move.partition("-")
    if way in ("out", "left", "up"):
        times = [1 - time for time in times]
    match kind:
        case "zoom":
            return [Straight(0.0, 0.0, (1 + strength) ** time) for time in times]
        case "pan":
            zoom, reach = _travel(strength, stage.width, stage.still_width)
            return [Straight((time - 0.5) * reach, 0.0, zoom) for time in times]
        case "tilt":
            zoom, reach = _travel(strength, stage.height, stage.still_height)
            return [Straight(0.0, (time - 0.5) * reach, zoom) for time in times]
        case "dolly":
            return [_dolly((1 + strength) ** time, stage) for time in times]
        case "orbit":
            angles = [(2 * time - 1) * strength * _TURN for time in times]
            return _within(stage, lambda zoom: [_orbit(angle, zoom, stage) for angle in angles])
        case "handheld":
            sway = Tremor(seed)
            return _within(
                stage, lambda zoom: [_held(sway, index / fps, strength, zoom, stage) for index in range(frames)]
            )
    raise ValueError(f"no move is called {move}")


def _travel(strength: float, side: float, still: float) -> tuple[float, float]:
    """The least zoom that leaves room to travel `strength` frames along this side, and how far that is."""
    zoom = max(1.0, side * (1 + strength) / still)
    return zoom, strength * side / zoom


def _dolly(growth: float, stage: Stage) -> Flat:
    """Nearer by a way that makes the middle `growth` times as large, over a still that leans back like ground.

    Inverse depth rises evenly towards the bottom, which makes it a plane: what is low grows faster than what is high.
    """
    way, lean = 1 - 1 / growth, _GROUND / (stage.height / 2)
    # x' = x (1 - way d(y)), y' = y (1 - way d(y)) with d(y) = 1 + lean y, solved for the still.
    return Flat((1 - way, 0.0, 0.0, 0.0, 1 - way, 0.0, 0.0, way * lean))


def _orbit(angle: float, zoom: float, stage: Stage) -> Bent:
    focal = _FOCAL * stage.width
    return Bent(angle, focal, 4 * _BULGE * focal / stage.width**2, zoom)


def _held(sway: Tremor, seconds: float, strength: float, zoom: float, stage: Stage) -> Flat:
    x, y, roll = sway.at(seconds)
    reach, angle = strength * _SWAY * stage.width, strength * _ROLL * roll
    sine, cosine = math.sin(angle) / zoom, math.cos(angle) / zoom
    return Flat((cosine, -sine, x * reach, sine, cosine, y * reach, 0.0, 0.0))


class Tremor:
    """Smooth noise of a hand: few slow waves with random phases, weaker the faster they are, always within ±1."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)  # noqa: S311 - a picture, not a secret
        self._waves = [[(hertz, draw.random() * math.tau) for hertz in _TREMOR_HZ] for _ in range(3)]
        self._sum = sum(1 / hertz for hertz in _TREMOR_HZ)

    def at(self, seconds: float) -> tuple[float, float, float]:
        """Sideways, up and down, and roll at that moment."""
        x, y, roll = (
            sum(math.sin(math.tau * hertz * seconds + phase) / hertz for hertz, phase in waves) / self._sum
            for waves in self._waves
        )
        return x, y, roll


def _within(stage: Stage, views: Callable[[float], list[View]]) -> list[View]:
    """The views with the least zoom (to 1/1000) that keeps every frame of them inside the still."""
    low, high = 1.0, 1.0
    while not all(inside(view, stage) for view in views(high)):
        low, high = high, high * 1.25
    while high - low > 1e-3:
        middle = (low + high) / 2
        fits = all(inside(view, stage) for view in views(middle))
        low, high = (low, middle) if fits else (middle, high)
    return views(high)


def inside(view: View, stage: Stage) -> bool:
    """Whether the frame sees nothing beyond the still. Looks along its rim: what a rim encloses lies inside too."""
    right, bottom = stage.width / 2, stage.height / 2
    steps = np.linspace(-1.0, 1.0, 33)
    x = np.concatenate([steps * right, steps * right, np.full(33, -right), np.full(33, right)])
    y = np.concatenate([np.full(33, -bottom), np.full(33, bottom), steps * bottom, steps * bottom])
    still_x, still_y = view.at(x, y)
    # Tolerates what rounding does to a frame that exactly fits.
    return bool(
        np.all(np.abs(still_x) <= stage.still_width / 2 + 1e-6)
        and np.all(np.abs(still_y) <= stage.still_height / 2 + 1e-6)
    )
