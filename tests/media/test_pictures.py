"""Every kind of picture comes out as the same opaque 8-bit sRGB, the right way up, or is refused by name."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
import stills
from PIL import Image, ImageOps

from framewright.errors import BadInput
from workers.media import pictures

LIMIT = 33_177_600


def decoded(tmp_path: Path, data: bytes, **more: object) -> Image.Image:
    path = tmp_path / "picture"
    path.write_bytes(data)
    return pictures.decode(path, **{"field": "/input/image", "max_pixels": LIMIT, **more})


def near(image: Image.Image, other: Image.Image, by: float = 3) -> bool:
    return image.size == other.size and np.abs(np.asarray(image, int) - np.asarray(other, int)).max() <= by


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_decides_which_way_is_up(tmp_path, orientation, kind):
    data = stills.turned(
        orientation, kind, **({"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {})
    )
    with Image.open(io.BytesIO(data)) as stored:
        upright = ImageOps.exif_transpose(stored).convert("RGB")
    found = decoded(tmp_path, data)
    assert near(found, upright)
    path = tmp_path / "picture"
    assert pictures.size(path, field="/input/image", max_pixels=LIMIT) == found.size
    assert (found.size == (64, 48)) is (orientation < 5)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_makes_no_sense_is_ignored(tmp_path, orientation):
    assert decoded(tmp_path, stills.turned(orientation)).size == (64, 48)


def test_sixteen_bit_grey_keeps_its_range(tmp_path):
    grey = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    found = np.asarray(decoded(tmp_path, stills.packed(Image.fromarray(grey))), int)
    assert found.shape == (48, 64, 3)
    assert np.abs(found[..., 0] - grey / 257).max() <= 0.51


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("L", "JPEG"), ("RGB", "WEBP"), ("CMYK", "JPEG")]
)
def test_every_mode_becomes_rgb_of_the_same_colours(tmp_path, mode, kind):
    image = stills.photo().convert(mode)
    how = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    if mode == "L" and kind == "JPEG":
        how = {"quality": 98}
    found = decoded(tmp_path, stills.packed(image, kind, **how))
    assert found.mode == "RGB"
    assert near(found, image.convert("RGB"), 8)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_shows_the_background(tmp_path, kind):
    image = Image.new("RGBA", (4, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    image.putpixel((2, 0), (255, 0, 0, 128))
    data = stills.packed(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    found = decoded(tmp_path, data, background=(0, 0, 200))
    assert [found.getpixel((x, 0)) for x in range(4)] == [(0, 0, 200), (255, 0, 0), (128, 0, 100), (0, 0, 200)]


def test_a_transparent_colour_of_a_palette_shows_the_background(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    found = decoded(tmp_path, stills.packed(image, transparency=0), background=(9, 9, 9))
    assert [found.getpixel((x, 0)) for x in range(2)] == [(9, 9, 9), (0, 255, 0)]


def test_an_embedded_profile_is_converted_to_srgb(tmp_path):
    red = Image.new("RGB", (8, 8), (230, 20, 20))
    data = stills.packed(red, icc_profile=stills.swapped_profile())
    r, g, b = decoded(tmp_path, data).getpixel((4, 4))
    assert g > 200
    assert r < 60
    assert b < 60


def test_a_profile_leaves_transparency_alone(tmp_path):
    data = stills.packed(Image.new("RGBA", (8, 8), (230, 20, 20, 0)), icc_profile=stills.swapped_profile())
    assert decoded(tmp_path, data, background=(1, 2, 3)).getpixel((4, 4)) == (1, 2, 3)


@pytest.mark.parametrize("profile", [b"nonsense", bytes(200), stills.swapped_profile()[:150]])
def test_a_broken_profile_is_ignored(tmp_path, profile):
    assert near(decoded(tmp_path, stills.packed(stills.photo(), icc_profile=profile)), stills.photo())


def test_the_first_picture_of_a_phones_multi_picture_jpeg_is_the_photo(tmp_path):
    data = stills.packed(stills.photo(), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert decoded(tmp_path, data).size == (64, 48)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a PNG"),
        (b"\0" * 100, "not a PNG"),
        (b"<html><body>picture</body></html>", "not a PNG"),
        (stills.packed(stills.photo(), "GIF"), "not a PNG"),
        (stills.packed(stills.photo(), "BMP"), "not a PNG"),
        (stills.packed(stills.photo(), "JPEG")[:700], "cut short"),
        (stills.packed(stills.photo(), "PNG")[:100], "cut short"),
        (stills.packed(stills.photo(), "WEBP", lossless=True)[:60], "not a PNG|damaged"),
        (stills.animated("WEBP"), "animated"),
        (stills.animated("PNG"), "animated"),
        (stills.huge_png(30_000, 30_000), "too large"),
        (stills.huge_webp(16_000, 16_000), "too large"),
    ],
    ids=range(12),
)
def test_what_cannot_be_used_is_bad_input_that_names_the_field(tmp_path, data, says):
    with pytest.raises(BadInput, match=says) as refused:
        decoded(tmp_path, data, field="/input/images/3")
    assert refused.value.field == "/input/images/3"
    assert str(tmp_path) not in refused.value.detail


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_pictures_decode_or_are_refused_and_nothing_else(tmp_path):
    random.seed(1)
    sources = [
        stills.turned(6),
        stills.packed(stills.photo(), icc_profile=stills.swapped_profile()),
        stills.packed(stills.photo().convert("CMYK"), "JPEG"),
        stills.packed(stills.photo(), "WEBP"),
        stills.packed(stills.photo().convert("P")),
    ]
    refused = 0
    for _ in range(400):
        data = bytearray(random.choice(sources))
        for _ in range(random.randint(1, 6)):
            data[random.randrange(len(data))] = random.randrange(256)
        try:
            assert decoded(tmp_path, bytes(data), max_pixels=1_000_000).mode == "RGB"
        except BadInput:
            refused += 1
    assert 20 < refused < 400


def test_a_disk_that_fails_is_not_the_pictures_fault(tmp_path):
    with pytest.raises(FileNotFoundError):
        pictures.decode(tmp_path / "missing", field="/input/image", max_pixels=LIMIT)
