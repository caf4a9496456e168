"""`encode`: which images become which frames, in what order and colours, and what is said of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import Watched, frames_of, watched
from stills import packed, photo, turned

from framewright.errors import BadInput, Canceled
from workers.engines import registry
from workers.engines.encode import fitted
from workers.media import gate

PARAMS = {"fps": "2/1", "quality": 65, "codec": "hevc", "background": "#000000", "on_error": "fail"}


def grey(level: int, size: tuple[int, int] = (64, 48)) -> bytes:
    return packed(Image.new("RGB", size, (level, level, level)))


def encoded(work: Path, images: list[bytes], **params: object) -> tuple[Watched, list[gate.Output]]:
    work.mkdir(exist_ok=True)
    paths = []
    for index, data in enumerate(images):
        paths.append(work / f"in-{index}")
        paths[-1].write_bytes(data)
    seen = watched(work / "work", {**PARAMS, **params}, {"images": paths})
    return seen, registry.load("encode").run(seen.run)


def test_every_image_becomes_one_frame_in_the_order_given(tmp_path):
    levels = [10 + 20 * ((7 * index) % 11) for index in range(11)]
    seen, outputs = encoded(tmp_path, [grey(level) for level in levels])
    found = gate.check(outputs[0], seen.run)
    assert (found["frames"], found["fps"], found["duration_s"]) == (11, "2/1", 5.5)
    assert [round(frame.mean() / 20 - 0.5) for frame in frames_of(outputs[0].path)] == [
        round(level / 20 - 0.5) for level in levels
    ]
    assert found["outcomes"] == ["used"] * 11
    assert found["skipped"] == []
    assert [report.frames_done for report in seen.reports][-1] == 11


@pytest.mark.parametrize(
    ("codec", "name", "tag"), [("hevc", "hevc", "hvc1"), ("h264", "h264", "avc1"), ("any", "hevc", "hvc1")]
)
def test_the_codec_is_as_asked_and_tagged_for_players(tmp_path, codec, name, tag):
    import av

    _, outputs = encoded(tmp_path, [grey(90)] * 3, codec=codec)
    with av.open(str(outputs[0].path)) as clip:
        context = clip.streams.video[0].codec_context
        assert (context.name, context.codec_tag, context.pix_fmt) == (name, tag, "yuv420p")
        assert [int(value) for value in (context.color_range, context.colorspace, context.color_primaries)] == [1, 1, 1]
        assert int(context.color_trc) == 13


def test_a_faststart_file_has_its_index_in_front(tmp_path):
    _, outputs = encoded(tmp_path, [grey(90)] * 3)
    data = outputs[0].path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_colours_are_those_of_the_images(tmp_path):
    """216 colours, decoded as BT.709 the way players do: untagged or BT.601 data is off by 6.65 on average."""
    cube = [(r, g, b) for r in range(0, 256, 51) for g in range(0, 256, 51) for b in range(0, 256, 51)]
    image = Image.new("RGB", (18 * 16, 12 * 16))
    for index, colour in enumerate(cube):
        x, y = index % 18 * 16, index // 18 * 16
        image.paste(colour, (x, y, x + 16, y + 16))
    _, outputs = encoded(tmp_path, [packed(image)] * 2, quality=100)
    frame = next(frames_of(outputs[0].path)).astype(int)
    off = [
        np.abs(frame[index // 18 * 16 + 4 : index // 18 * 16 + 12, index % 18 * 16 + 4 : index % 18 * 16 + 12] - colour)
        for index, colour in enumerate(cube)
    ]
    assert np.mean(off) <= 2.0


def test_a_mixed_bag_of_images_is_encoded_frame_by_frame_and_the_broken_are_named(tmp_path):
    images = {
        "landscape": packed(photo()),
        "portrait": packed(photo(48, 64)),
        "turned by its EXIF": turned(6),
        "cut short": packed(photo(), "JPEG")[:700],
        "text": b"not a picture",
        "empty": b"",
        "grey": packed(photo().convert("L")),
        "sixteen bits": packed(Image.fromarray(np.full((48, 64), 40000, np.uint16))),
        "cmyk": packed(photo().convert("CMYK"), "JPEG"),
        "transparent": packed(Image.new("RGBA", (64, 48), (255, 0, 0, 0))),
    }
    seen, outputs = encoded(tmp_path, list(images.values()), on_error="skip", fit="pad", background="#0000ff")
    found = gate.check(outputs[0], seen.run)
    assert (found["width"], found["height"], found["frames"]) == (64, 48, 7)
    assert [name for name, outcome in zip(images, found["outcomes"], strict=True) if outcome == "skipped"] == [
        "cut short",
        "text",
        "empty",
    ]
    assert [skipped["index"] for skipped in found["skipped"]] == [3, 4, 5]
    assert all(skipped["detail"] for skipped in found["skipped"])
    frames = list(frames_of(outputs[0].path))
    for upright in (frames[1], frames[2]):
        assert np.abs(upright[:, :10].astype(int) - (0, 0, 255)).mean() < 12, "bars in the background's colour"
        assert np.abs(upright[:, 20:44].astype(int) - (0, 0, 255)).mean() > 40
    assert np.abs(frames[4].astype(int) - 156).mean() < 4, "40000 of 65535 is 156 of 255"
    assert np.abs(frames[6].astype(int) - (0, 0, 255)).mean() < 12, "what is transparent shows the background"


def test_a_broken_image_fails_the_job_and_is_named_unless_it_may_be_skipped(tmp_path):
    with pytest.raises(BadInput) as refused:
        encoded(tmp_path, [grey(10), grey(20), b"broken", grey(30)])
    assert refused.value.field == "/input/images/2"


@pytest.mark.parametrize(("images", "on_error"), [([], "fail"), ([b"broken"] * 3, "skip")])
def test_no_image_at_all_is_bad_input(tmp_path, images, on_error):
    with pytest.raises(BadInput) as refused:
        encoded(tmp_path, images, on_error=on_error, size="64x48")
    assert refused.value.field == "/input/images"


def test_mixed_sizes_are_refused_by_name_unless_the_request_says_how_they_fit(tmp_path):
    with pytest.raises(BadInput, match=r"48x64.*params\.fit") as refused:
        encoded(tmp_path, [packed(photo()), packed(photo(48, 64))])
    assert refused.value.field == "/input/images/1"


def test_odd_sizes_are_padded_by_a_pixel_and_never_scaled(tmp_path):
    """Scaling by one pixel blurs the whole frame: 22 dB against the 40 and more that padding keeps."""
    noise = np.random.default_rng(1).integers(0, 256, (59, 79), np.uint8)
    image = Image.fromarray(noise).convert("RGB")
    seen, outputs = encoded(tmp_path, [packed(image)], quality=100, fit="pad", size="80x60")
    found = gate.check(outputs[0], seen.run)
    assert (found["width"], found["height"]) == (80, 60)
    frame = next(frames_of(outputs[0].path))[..., 1].astype(float)
    psnr = 10 * np.log10(255**2 / ((frame[:59, :79] - noise) ** 2).mean())
    assert psnr >= 38
    assert np.abs(frame[:59, 79] - noise[:, 78]).mean() < 10, "the last column is shown twice"


def picture_in(size: tuple[int, int], fit: str | None) -> np.ndarray:
    still = Image.new("RGB", (40, 20), (255, 0, 0))
    still.paste((0, 255, 0), (0, 0, 20, 20))
    return np.asarray(fitted(still, size, fit, (0, 0, 255), field="/input/images/0"))


def test_the_three_ways_to_fit():
    padded = picture_in((40, 40), "pad")
    assert (padded[:9] == (0, 0, 255)).all()
    assert (padded[11:29, :18] == (0, 255, 0)).all()
    cropped = picture_in((20, 20), "crop")
    assert (cropped[:, :8] == (0, 255, 0)).all()
    assert (cropped[:, 12:] == (255, 0, 0)).all()
    stretched = picture_in((40, 60), "stretch")
    assert (stretched[:, :18] == (0, 255, 0)).all()
    with pytest.raises(BadInput):
        picture_in((40, 60), None)


def test_told_to_stop_it_stops_between_images(tmp_path):
    def stop(seen: Watched) -> None:
        if len(seen.reports) >= 2:
            raise Canceled("enough")

    paths = [tmp_path / "one.png"] * 50
    paths[0].write_bytes(grey(99))
    seen = watched(tmp_path / "work", PARAMS, {"images": paths}, stop=stop)
    with pytest.raises(Canceled):
        registry.load("encode").run(seen.run)
    assert len(seen.reports) == 2
