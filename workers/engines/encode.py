"""`encode`: an ordered set of images becomes one MP4, with what they show and no motion invented between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image, ImageColor

from framewright.errors import BadInput
from framewright.jobs import Phase
from framewright.params import parse_size
from workers.engines.run import Output, Run
from workers.media import clip, pictures
from workers.media.ahead import ahead
from workers.media.clip import Shape

FIELD = "/input/images"
_LANCZOS = Image.Resampling.LANCZOS


class Encode:
    name: ClassVar[str] = "encode"

    def run(self, run: Run) -> list[Output]:
        images = run.inputs["images"]
        assert isinstance(images, list)  # noqa: S101 - the catalogue row says so
        if not images:
            raise BadInput("there is no image to encode", field=FIELD)
        params = run.params
        album = _Album(run, images)
        shape = Shape(
            *album.size(),
            fps=Fraction(params["fps"]),
            frames=len(images),
            quality=int(params["quality"]),
            codec=params["codec"],
            phase=Phase.ENCODING,
        )
        first, *others = clip.write(run, shape, lambda: album.frames((shape.width, shape.height)))
        return [replace(first, meta={**first.meta, **album.told()}), *others]


class _Album:
    """The images of one run, decoded in order, and what became of each."""

    def __init__(self, run: Run, images: list[Path]) -> None:
        self._run, self._images = run, images
        self._skip = run.params["on_error"] == "skip"
        self._fit: str | None = run.params.get("fit")
        red, green, blue = ImageColor.getrgb(run.params["background"])[:3]
        self._background = (red, green, blue)
        self._wrong: dict[int, str] = {}

    def size(self) -> tuple[int, int]:
        """Size of the clip (pixels): as asked, else that of the first image that can be read, made even."""
        if asked := self._run.params.get("size"):
            return parse_size(asked)
        for index, path in enumerate(self._images):
            self._run.stop()
            try:
                width, height = pictures.size(path, field=f"{FIELD}/{index}", max_pixels=self._run.max_pixels)
            except BadInput:
                if not self._skip:
                    raise
            else:
                return width + width % 2, height + height % 2
        raise BadInput("none of the images can be decoded", field=FIELD)

    def frames(self, size: tuple[int, int]) -> Iterator[Image.Image]:
        """One frame for each image that can be decoded; the others raise `BadInput` or are left out, as asked."""
        self._wrong.clear()
        for index, made in enumerate(ahead(partial(self._frame, size), enumerate(self._images))):
            if isinstance(made, Image.Image):
                yield made
            elif self._skip:
                self._wrong[index] = made.detail
            else:
                raise made
        if len(self._wrong) == len(self._images):
            raise BadInput("none of the images can be decoded", field=FIELD)

    def _frame(self, size: tuple[int, int], numbered: tuple[int, Path]) -> Image.Image | BadInput:
        index, path = numbered
        field = f"{FIELD}/{index}"
        try:
            picture = pictures.decode(path, field=field, max_pixels=self._run.max_pixels, background=self._background)
            return fitted(picture, size, self._fit, self._background, field=field)
        except BadInput as error:
            return error

    def told(self) -> Mapping[str, Any]:
        """What became of every image, in order, and why some were left out."""
        return {
            "outcomes": ["skipped" if index in self._wrong else "used" for index in range(len(self._images))],
            "skipped": [{"index": index, "detail": detail} for index, detail in self._wrong.items()],
        }


def fitted(
    picture: Image.Image, size: tuple[int, int], fit: str | None, background: pictures.Colour, *, field: str
) -> Image.Image:
    """The picture in a frame of that size.

    A picture that is one pixel short of an even frame is never scaled for it, which would blur it all: its last row or
    column is shown twice. Otherwise `pad` scales it to fit and fills up with the background, `crop` scales it to cover
    and cuts, `stretch` does not keep its shape, and None refuses another size.
    """
    width, height = size
    if picture.width in (width, width - 1) and picture.height in (height, height - 1):
        return _extended(picture, size)
    if fit == "stretch":
        return picture.resize(size, _LANCZOS)
    if fit == "crop":
        scale = max(Fraction(width, picture.width), Fraction(height, picture.height))
        left, top = (picture.width - width / scale) / 2, (picture.height - height / scale) / 2
        box = (float(left), float(top), float(left + width / scale), float(top + height / scale))
        return picture.resize(size, _LANCZOS, box)
    if fit == "pad":
        scale = min(Fraction(width, picture.width), Fraction(height, picture.height))
        inner = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        whole = Image.new("RGB", size, background)
        whole.paste(picture.resize(inner, _LANCZOS), ((width - inner[0]) // 2, (height - inner[1]) // 2))
        return whole
    raise BadInput(
        f"the image is {picture.width}x{picture.height} and the clip {width}x{height}; params.fit says how it goes in",
        field=field,
    )


def _extended(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    if picture.size == size:
        return picture
    whole = Image.new("RGB", size)
    # From the far corner inwards, each a pixel farther: what is left uncovered is the repeated edge.
    for corner in ((1, 1), (1, 0), (0, 1), (0, 0)):
        whole.paste(picture, corner)
    return whole
