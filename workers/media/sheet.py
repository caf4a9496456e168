"""A sprite sheet: small pictures of a clip in one JPEG, for scrubbing and for a glance at the whole."""

from __future__ import annotations

from math import ceil, sqrt
from pathlib import Path
from typing import Any, Final

from PIL import Image

SIDE: Final = 160
ACROSS: Final = 10
"""Tiles in a row, and rows, at most."""


class Sheet:
    """Keeps at most 100 frames, evenly spread over the `total` that are expected, of at most 160 pixels a side."""

    def __init__(self, total: int, size: tuple[int, int]) -> None:
        cells = max(1, min(ACROSS * ACROSS, total))
        self._wanted = {cell * max(1, total) // cells for cell in range(cells)}
        scale = min(1.0, SIDE / max(size))
        self._tile = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        self._tiles: list[tuple[int, Image.Image]] = []

    def saw(self, index: int, frame: Image.Image) -> None:
        """Takes the frame of that number (from 0) if it is one of those for the sheet."""
        if index in self._wanted:
            self._tiles.append((index, frame.resize(self._tile, Image.Resampling.BOX)))

    def save(self, path: Path) -> dict[str, Any]:
        """Writes the sheet, and says its size and `grid`: columns, rows, the tiles' size, and the frame each shows.

        Tiles go from left to right, then down; what is left of the last row is black.
        """
        columns = ceil(sqrt(len(self._tiles)))
        rows = ceil(len(self._tiles) / columns)
        width, height = self._tile
        whole = Image.new("RGB", (columns * width, rows * height))
        for place, (_, tile) in enumerate(self._tiles):
            whole.paste(tile, (place % columns * width, place // columns * height))
        whole.save(path, "JPEG", quality=75)
        return {
            "width": whole.width,
            "height": whole.height,
            "grid": {
                "columns": columns,
                "rows": rows,
                "tile_width": width,
                "tile_height": height,
                "tiles": [index for index, _ in self._tiles],
            },
        }
