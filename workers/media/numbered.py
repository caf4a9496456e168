"""A ZIP of numbered PNG frames: written without loss, and read back by the gate."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from framewright.errors import InvalidOutput

_STAMP = (1980, 1, 1, 0, 0, 0)  # the same frames make the same bytes
_BLACK = 24


def frame_name(index: int) -> str:
    """The name of a frame; the first is frame_00000.png."""
    return f"frame_{index:05}.png"


class Frames:
    """Writes frames one after the other; use it as a context manager. `comment` (ASCII) goes into every one of them.

    They are stored, not deflated, because a PNG is deflated already. Each says that it is sRGB, which is what the
    BT.709 tags of the other formats say as well.
    """

    def __init__(self, path: Path, comment: str | None = None) -> None:
        self._file = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)
        self._info = PngInfo()
        self._info.add(b"sRGB", b"\0")
        if comment is not None:
            self._info.add_text("comment", comment)
        self._count = 0

    def __enter__(self) -> Frames:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, frame: Image.Image) -> None:
        packed = io.BytesIO()
        frame.save(packed, "PNG", compress_level=4, pnginfo=self._info)
        entry = zipfile.ZipInfo(frame_name(self._count), _STAMP)
        entry.external_attr = 0o644 << 16
        self._file.writestr(entry, packed.getvalue())
        self._count += 1


def check(name: str, path: Path, size: tuple[int, int], frames: int, stop: Callable[[], None]) -> bool:
    """Decodes every frame, and says whether any of them is more than black. `InvalidOutput` if it is not as it was
    meant to be: that many frames of that size (pixels), numbered without a gap, stored and undamaged."""
    bright = False
    try:
        with zipfile.ZipFile(path) as file:
            entries = file.infolist()
            wanted = [frame_name(index) for index in range(frames)]
            # A signed one has its manifest in a folder of its own.
            found = [entry.filename for entry in entries if not entry.filename.startswith("META-INF/")]
            if found != wanted:
                raise InvalidOutput(
                    f"{name}: number of frames is {len(found)} instead of {frames}, or their names differ"
                )
            for entry in entries[:frames]:
                stop()
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise InvalidOutput(f"{name}: {entry.filename} is not stored as it is")
                with Image.open(io.BytesIO(file.read(entry)), formats=["PNG"]) as picture:
                    if picture.size != size or picture.mode != "RGB":
                        raise InvalidOutput(f"{name}: {entry.filename} is {picture.mode} of {picture.size}")
                    picture.load()  # all of it, also where it is bright at once
                    bright = bright or bool(np.asarray(picture).max() > _BLACK)
    except (zipfile.BadZipFile, UnidentifiedImageError, OSError, zlib.error, struct.error, SyntaxError) as error:
        raise InvalidOutput(f"{name}: the file does not decode: {type(error).__name__}") from error
    return bright
