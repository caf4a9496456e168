"""GIF files: a comment where readers look for it, and whether a file is whole, which lenient decoders do not say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import IO, Final

_HEAD: Final = 13
_COMMENT: Final = b"\x21\xfe"
_PIECE: Final = 255
_EXTENSION, _IMAGE, _END = 0x21, 0x2C, 0x3B


class NotWhole(ValueError):
    """The file is cut short, or is no GIF."""


def say(text: str, path: Path) -> None:
    """Puts a comment (ASCII) before the first frame; ffmpeg's muxer writes none."""
    data, other = text.encode("ascii"), path.with_suffix(".said")
    with path.open("rb") as source, other.open("wb") as target:
        target.write(_front(source))
        target.write(_COMMENT)
        for at in range(0, len(data), _PIECE):
            piece = data[at : at + _PIECE]
            target.write(bytes([len(piece)]) + piece)
        target.write(b"\0")
        shutil.copyfileobj(source, target, 1 << 20)
    other.replace(path)


def frames(path: Path) -> int:
    """How many pictures there are in a file that reaches from its first byte to its end mark; else `NotWhole`."""
    count = 0
    with path.open("rb") as file:
        _front(file)
        while True:
            kind = _read(file, 1)[0]
            if kind == _END:
                break
            if kind == _EXTENSION:
                _read(file, 1)
            elif kind == _IMAGE:
                count += 1
                _colours(file, _read(file, 9)[8])
                _read(file, 1)
            else:
                raise NotWhole("it holds something that is no block")
            while size := _read(file, 1)[0]:
                _read(file, size)
        if file.read(1):
            raise NotWhole("it goes on behind its end")
    return count


def _front(file: IO[bytes]) -> bytes:
    head = _read(file, _HEAD)
    if head[:3] != b"GIF":
        raise NotWhole("it is no GIF")
    return head + _colours(file, head[10])


def _colours(file: IO[bytes], flags: int) -> bytes:
    return _read(file, 3 << ((flags & 7) + 1)) if flags & 0x80 else b""


def _read(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise NotWhole("it is cut short")
    return data
