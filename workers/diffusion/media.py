"""The files of a run as what a pipeline is conditioned on: pictures in the size of the clip, sound of its length."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from workers.diffusion.calling import Keyframe, Media
from workers.engines.run import Run
from workers.media import footage, pictures, recording
from workers.media.sound import Sound

Pixels = tuple[int, int]


def gathered(run: Run, size: Pixels) -> Media:
    """What the run brings; `BadInput` names the field of a file that cannot be decoded."""
    said: list[dict[str, Any]] = run.params.get("keyframes") or []
    files = _many(run.inputs.get("keyframes"))
    keyframes = [
        Keyframe(
            _picture(path, f"/input/keyframes/{index}/image", run, size), int(one["frame"]), float(one["strength"])
        )
        for index, (path, one) in enumerate(zip(files, said, strict=True))
    ]
    references = [
        _picture(path, f"/input/reference_images/{index}", run, size)
        for index, path in enumerate(_many(run.inputs.get("reference_images")))
    ]
    return Media(
        image=_slot(run, "image", size),
        last_image=_slot(run, "last_image", size),
        keyframes=keyframes or None,
        reference_images=references or None,
        video=_film(run, "video", size),
        mask=_film(run, "mask", size),
        pose_video=_film(run, "pose_video", size),
        # Looked at in a square of its own, so a wide clip must not crop it.
        face_video=_film(run, "face_video", (min(size), min(size))),
        audio=_sound(run, "audio"),
    )


def _many(value: Path | list[Path] | None) -> list[Path]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _slot(run: Run, name: str, size: Pixels) -> Image.Image | None:
    path = run.inputs.get(name)
    assert not isinstance(path, list)  # noqa: S101 - the catalogue row says so
    return None if path is None else _picture(path, f"/input/{name}", run, size)


def _picture(path: Path, field: str, run: Run, size: Pixels) -> Image.Image:
    """Scaled and cropped about its middle: pipelines would stretch it."""
    still = pictures.decode(path, field=field, max_pixels=run.max_pixels)
    run.stop()
    return still if still.size == size else ImageOps.fit(still, size, Image.Resampling.LANCZOS)


def _film(run: Run, name: str, size: Pixels) -> list[Image.Image] | None:
    """The frames of a video, as many as the clip has, at the clip's rate."""
    path = run.inputs.get(name)
    assert not isinstance(path, list)  # noqa: S101 - the catalogue row says so
    if path is None:
        return None
    frames = footage.frames(
        path, Fraction(run.params["fps"]), int(run.params["frames"]), size, field=f"/input/{name}", run=run
    )
    return list(frames)


def _sound(run: Run, name: str) -> Sound | None:
    """A sound, cut where the clip ends."""
    path = run.inputs.get(name)
    assert not isinstance(path, list)  # noqa: S101 - the catalogue row says so
    if path is None:
        return None
    seconds = int(run.params["frames"]) / Fraction(run.params["fps"])
    return recording.sound(path, seconds, field=f"/input/{name}", run=run)
