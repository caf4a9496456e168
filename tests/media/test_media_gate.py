"""The output gate: what is not exactly what was asked for is not published."""

from __future__ import annotations

import random
import subprocess
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image
from runs import watched
from stills import photo

from framewright.errors import Canceled, InvalidOutput
from workers.engines.run import Output
from workers.media import clip, ffmpeg, gate
from workers.media.clip import Shape

REAL = str(ffmpeg.resolve())
X265 = ("-c:v", "libx265", "-x265-params", "log-level=error")
SHAPE = Shape(128, 96, Fraction(24), 12)


def pictures(count: int = 12) -> list[Image.Image]:
    return [photo(128 + index, 96).crop((index, 0, 128 + index, 96)) for index in range(count)]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Output:
    work = tmp_path_factory.mktemp("good")
    return clip.write(watched(work, {}).run, SHAPE, pictures)[0]


def checked(made: Output, **expect: object) -> dict[str, object]:
    assert made.expect is not None
    run = watched(made.path.parent, {}).run
    return gate.check(replace(made, expect=replace(made.expect, **expect)), run)


def remade(good: Output, path: Path, *args: str) -> Output:
    """The good clip after ffmpeg did something to it."""
    subprocess.run([REAL, "-loglevel", "error", "-y", "-i", good.path, *args, path], check=True)
    return replace(good, path=path)


def test_a_good_clip_passes_and_is_measured(good):
    assert checked(good) == {
        "encoder": "libx265",
        "width": 128,
        "height": 96,
        "frames": 12,
        "fps": "24/1",
        "duration_s": 0.5,
        "codecs": "hvc1.1.6.L30.90",
    }


@pytest.mark.parametrize(
    ("expect", "says"),
    [
        ({"frames": 13}, "number of frames is 12 instead of 13"),
        ({"frames": 11}, "number of frames is 12 instead of 11"),
        ({"width": 126}, "size of frame 0 is 128x96 instead of 126x96"),
        ({"fps": "25/1"}, "instead of its turn"),
        ({"duration_s": 0.55}, "lasts 0.500 s instead of 0.550 s"),
        ({"codec": "h264"}, "codec is hevc instead of h264"),
    ],
    ids=str,
)
def test_a_clip_that_is_not_what_was_promised_is_refused(good, expect, says):
    with pytest.raises(InvalidOutput, match=says):
        checked(good, **expect)


def test_a_file_cut_short_anywhere_is_refused(good, tmp_path):
    whole = good.path.read_bytes()
    for length in [0, 1, 40, *range(100, len(whole), max(1, len(whole) // 25)), len(whole) - 1]:
        short = tmp_path / "short.mp4"
        short.write_bytes(whole[:length])
        with pytest.raises(InvalidOutput):
            checked(replace(good, path=short))


def test_the_playable_beginning_that_a_full_disk_leaves_is_refused(good, tmp_path):
    path = tmp_path / "fragments.mp4"
    remade(good, path, "-c", "copy", "-tag:v", "hvc1", "-movflags", "frag_every_frame+empty_moov+default_base_moof")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    played = subprocess.run([REAL, "-loglevel", "error", "-i", path, "-f", "null", "-"], check=False)
    assert played.returncode == 0, "players do not mind"
    with pytest.raises(InvalidOutput, match="number of frames"):
        checked(replace(good, path=path))


def test_damage_inside_does_not_pass_for_pictures(good, tmp_path):
    whole = bytearray(good.path.read_bytes())
    data = whole.index(b"mdat") + 8
    random.seed(3)
    for _ in range(40):
        whole[random.randrange(data + 100, len(whole))] ^= 0xFF
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(whole)
    with pytest.raises(InvalidOutput):
        checked(replace(good, path=broken))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("-c", "copy", "-tag:v", "hev1"), "codec tag is hev1 instead of hvc1"),
        ((*X265, "-tag:v", "hvc1", "-vf", "setparams=color_trc=bt709"), "colour tags"),
        (("-c", "copy", "-tag:v", "hvc1", "-bsf:v", "setts=pts=PTS+if(gte(N\\,6)\\,2048\\,0)"), "its turn|lasts"),
    ],
    ids=["tag", "colours", "times"],
)
def test_what_players_would_get_wrong_is_refused(good, tmp_path, args, says):
    with pytest.raises(InvalidOutput, match=says):
        checked(remade(good, tmp_path / "other.mp4", *args))


def black(level: int = 0) -> list[Image.Image]:
    return [Image.new("RGB", (128, 96), (level,) * 3) for _ in range(3)]


def test_a_black_clip_is_refused_unless_its_source_was_black(tmp_path):
    made = clip.write(watched(tmp_path, {}).run, replace(SHAPE, frames=3), black)[0]
    assert checked(made)["frames"] == 3, "the source was black"
    with pytest.raises(InvalidOutput, match="every frame is black"):
        checked(made, black=False)


@pytest.mark.parametrize("at", [0, 3])
def test_a_clip_with_one_bright_frame_is_not_black(tmp_path, at):
    frames = black()
    frames[at:at] = pictures(1)
    made = clip.write(watched(tmp_path, {}).run, replace(SHAPE, frames=4), lambda: frames)[0]
    assert made.expect is not None
    assert made.expect.black is False
    assert checked(made)["frames"] == 4


def test_lone_bright_pixels_that_no_encoder_keeps_do_not_fail_a_night_sky(tmp_path):
    def stars() -> list[Image.Image]:
        night = Image.new("RGB", (128, 96), (3, 3, 6))
        night.putpixel((40, 40), (90, 90, 90))
        return [night] * 3

    made = clip.write(watched(tmp_path, {}).run, replace(SHAPE, frames=3, quality=0), stars)[0]
    assert checked(made)["frames"] == 3


def test_other_files_only_have_to_be_there(tmp_path):
    run = watched(tmp_path, {}).run
    poster = Output(name="poster", path=tmp_path / "poster.jpg", content_type="image/jpeg", meta={"width": 3})
    with pytest.raises(InvalidOutput, match="poster: the file is missing or empty"):
        gate.check(poster, run)
    poster.path.write_bytes(b"jpeg")
    assert gate.check(poster, run) == {"width": 3}


def test_another_kind_of_file_under_this_name_is_refused(good, tmp_path):
    other = remade(good, tmp_path / "video.avi", "-c:v", "mjpeg")
    assert checked(replace(good, path=remade(other, tmp_path / "back.mp4", "-c", "copy").path), codec=None)
    with pytest.raises(InvalidOutput, match="does not decode"):
        checked(other, codec=None)


def test_text_is_no_video(good, tmp_path):
    path = tmp_path / "video.mp4"
    path.write_text("#EXTM3U\nhttp://127.0.0.1/private\n")
    with pytest.raises(InvalidOutput, match="does not decode"):
        checked(replace(good, path=path))


def test_checking_a_long_clip_can_be_stopped(good):
    def stop(_: object) -> None:
        raise Canceled("enough")

    with pytest.raises(Canceled):
        gate.check(good, watched(good.path.parent, {}, stop=stop).run)
