"""Opening a picture that a stranger sent: header first, then pixels. Needs Pillow: not for the API process."""

from __future__ import annotations

import struct
import zlib
from typing import IO

from PIL import Image, ImageFile, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from framewright.errors import UnsupportedMedia

FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "MPO": "image/jpeg", "WEBP": "image/webp"}
ORIENTATION = 0x0112
# Everything Pillow was seen to raise on damaged or hostile files.
DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError, AttributeError, RuntimeError),
    *(OverflowError, MemoryError, AssertionError, struct.error, zlib.error),
)
_NEEDED_LATER = (MpoImagePlugin, TiffImagePlugin)  # Pillow imports them when it meets the first EXIF
# `open_still` knows the caller's limit and checks it before anything of that size is allocated; Pillow's fixed one
# would only add warnings below it and a different error above.
Image.MAX_IMAGE_PIXELS = None


def open_still(file: IO[bytes], *, max_pixels: int) -> ImageFile.ImageFile:
    """The picture in `file`, its header read and its pixels not; `UnsupportedMedia` says what is wrong with it.

    One frame of PNG, JPEG or WebP, at most `max_pixels` (width x height). Of the several pictures that a phone may put
    in one JPEG, the first is the photo.
    """
    head = file.read(32)
    file.seek(0)
    _check_webp(head, max_pixels)
    try:
        image = _opened(file, head)
    except DAMAGED as error:
        _reraise_disk(error)
        raise UnsupportedMedia("this is not a PNG, JPEG or WebP picture that can be read") from None
    _check_size(*image.size, max_pixels)
    try:
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except DAMAGED as error:
        _reraise_disk(error)
        raise UnsupportedMedia("the picture is damaged") from None
    if frames != 1:
        raise UnsupportedMedia("the picture is animated; send one with a single frame")
    return image


def _opened(file: IO[bytes], head: bytes) -> ImageFile.ImageFile:
    # Not by Image.open, which imports every plugin there is before it says that it knows none.
    if head.startswith(b"\x89PNG"):
        return PngImagePlugin.PngImageFile(file)
    if head.startswith(b"RIFF"):
        return WebPImagePlugin.WebPImageFile(file)
    return JpegImagePlugin.jpeg_factory(file)


def load_pixels(image: Image.Image) -> None:
    """Decode all of it; a file that was cut short or damaged is `UnsupportedMedia`."""
    try:
        image.load()
    except DAMAGED as error:
        _reraise_disk(error)
        raise UnsupportedMedia("the picture is damaged or was cut short") from None


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Width and height (pixels) once the picture is turned as its EXIF says."""
    return image.size if orientation(image) < 5 else (image.height, image.width)


def orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 when there is none or it makes no sense."""
    try:
        turned = image.getexif().get(ORIENTATION, 1)
    except DAMAGED as error:
        _reraise_disk(error)
        return 1
    return turned if isinstance(turned, int) and 1 <= turned <= 8 else 1


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise UnsupportedMedia("the picture has no pixels")
    if width * height > max_pixels:
        raise UnsupportedMedia(f"the picture is too large: {width}x{height} is more than {max_pixels} pixels")


def _check_webp(head: bytes, max_pixels: int) -> None:
    """WebP's decoder reserves the whole canvas, twice, while the file is merely opened: read the header first."""
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return
    kind = head[12:16]
    if kind == b"VP8X":
        if head[20] & 0x02:
            raise UnsupportedMedia("the picture is animated; send one with a single frame")
        _check_size(1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little"), max_pixels)
    elif kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        _check_size(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), max_pixels)
    elif kind == b"VP8 ":
        width, height = struct.unpack("<HH", head[26:30])
        _check_size(width & 0x3FFF, height & 0x3FFF, max_pixels)


def _reraise_disk(error: BaseException) -> None:
    """A disk that fails is not the picture's fault."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
