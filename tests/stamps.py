"""Reads the marks that the scripted engine leaves in its frames."""

from __future__ import annotations

import io

import av

from workers.engines.scripted import Stamp, read_stamp


def stamps_of(clip: bytes) -> list[Stamp]:
    """The stamp of each frame of a clip, in order; fails on a frame that carries none."""
    with av.open(io.BytesIO(clip)) as container:
        return [read_stamp(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
