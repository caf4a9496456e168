"""Any picture we accept as 8-bit sRGB, the right way up, on an opaque background: what every engine works on."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from framewright import stills
from framewright.errors import BadInput, UnsupportedMedia

Colour = tuple[int, int, int]

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(path: Path, *, field: str, max_pixels: int, background: Colour = (0, 0, 0)) -> Image.Image:
    """The picture in RGB: turned as its EXIF says, ICC profile and CMYK converted, 16 bits rounded to 8, no alpha left.

    A picture that cannot be decoded is `BadInput` naming `field` (a JSON pointer of the request).
    """
    with path.open("rb") as file:
        try:
            image = stills.open_still(file, max_pixels=max_pixels)
            stills.load_pixels(image)
            turn = _TURNS.get(stills.orientation(image))
        except UnsupportedMedia as error:
            raise BadInput(error.detail, field=field) from None
    try:
        flat = _over(_srgb(image), background)
    except (ValueError, OSError, ImageCms.PyCMSError) as error:
        raise BadInput("the colours of the picture cannot be converted", field=field) from error
    return flat if turn is None else flat.transpose(turn)


def size(path: Path, *, field: str, max_pixels: int) -> tuple[int, int]:
    """Width and height (pixels) as it will be shown, from the header alone; `BadInput` as in `decode`."""
    with path.open("rb") as file:
        try:
            return stills.shown_size(stills.open_still(file, max_pixels=max_pixels))
        except UnsupportedMedia as error:
            raise BadInput(error.detail, field=field) from None


def _srgb(image: Image.Image) -> Image.Image:
    """RGB, or RGBA where there is transparency."""
    profile = image.info.get("icc_profile")
    plain = _eight_bits(image)
    if not profile:
        return plain if plain.mode in ("RGB", "RGBA") else plain.convert("RGB")
    alpha = plain.getchannel("A") if plain.mode == "RGBA" else None
    colours = plain.convert("RGB") if alpha is not None else plain
    transform = _transform(profile, colours.mode)
    done = colours.convert("RGB") if transform is None else ImageCms.applyTransform(colours, transform)
    assert done is not None  # noqa: S101 - only in-place transforms return nothing
    if alpha is not None:
        done.putalpha(alpha)
    return done


def _eight_bits(image: Image.Image) -> Image.Image:
    """L, RGB, CMYK or RGBA. Pillow clips 16-bit grey when it converts, so that is scaled here."""
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64)
        return Image.fromarray(((wide.clip(0, 65535) * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating point pictures have no defined white")
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From an embedded profile to sRGB; None when it is sRGB already, broken, or of another kind than the pixels."""
    try:
        embedded = ImageCms.getOpenProfile(io.BytesIO(profile))
        if mode == "RGB" and ImageCms.getProfileDescription(embedded).startswith("sRGB"):
            return None
        return ImageCms.buildTransform(embedded, _SRGB, mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


_SRGB = ImageCms.createProfile("sRGB")


def _over(image: Image.Image, background: Colour) -> Image.Image:
    if image.mode == "RGB":
        return image
    under = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(under, image).convert("RGB")
