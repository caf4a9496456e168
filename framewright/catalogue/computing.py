"""How much arithmetic a denoiser does. A product and its sum are two operations (FLOP). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

Grid = tuple[int, int, int]
"""Latent frames, rows and columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformer:
    """`layers` blocks of that `width` in which all tokens of a clip attend to each other.

    `parameters` are those that a token of the clip is multiplied with. What only the prompt or the timestep passes, a
    tenth to a half of a model, costs next to nothing. A token is a `patch` of the latents; `text` tokens of the prompt
    attend with them, where the blocks do not look at the prompt aside.
    """

    parameters: float
    layers: int
    width: int
    patch: Grid = (1, 2, 2)
    text: int = 0

    def flops(self, grid: Grid) -> float:
        """Of one forward."""
        tokens = prod(-(-side // edge) for side, edge in zip(grid, self.patch, strict=True)) + self.text
        return 2 * self.parameters * tokens + 4 * self.layers * self.width * tokens**2


@dataclass(frozen=True, slots=True, kw_only=True)
class UNet:
    """Layers of several widths: so much for each latent pixel, and for each pair of them, which attend in a frame."""

    per_pixel: float
    per_pair: float

    def flops(self, grid: Grid) -> float:
        """Of one forward."""
        frames, rows, columns = grid
        pixels = rows * columns
        return frames * (self.per_pixel * pixels + self.per_pair * pixels**2)
