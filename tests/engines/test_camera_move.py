"""`camera-move` from a picture on disk to files that pass the gate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from runs import Watched, frames_of, output, watched
from stills import packed, photo, turned

from framewright.errors import BadInput, Canceled
from workers.engines import registry
from workers.media import gate, moves

PARAMS = {
    "move": "zoom-in",
    "seconds": 0.5,
    "fps": "12/1",
    "size": "192x108",
    "easing": "linear",
    "strength": 0.3,
    "fit": "crop",
    "quality": 65,
    "codec": "hevc",
}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.jpg"
    path.write_bytes(packed(photo(320, 200), "JPEG", quality=95))
    return path


def moved(work: Path, picture: Path, **params: object) -> tuple[Watched, list[gate.Output]]:
    seen = watched(work, {**PARAMS, **params}, {"image": picture})
    return seen, registry.load("camera-move").run(seen.run)


@pytest.mark.parametrize("move", moves.MOVES)
def test_every_move_makes_a_clip_that_passes_the_gate(tmp_path, picture, move):
    seen, outputs = moved(tmp_path / "work", picture, move=move, seed=4)
    assert [made.name for made in outputs] == ["video", "poster", "thumbnail", "sprite", "playback"]
    found = gate.check(outputs[0], seen.run)
    assert (found["width"], found["height"], found["frames"], found["fps"]) == (192, 108, 6, "12/1")
    assert [report.frames_done for report in seen.reports] == [1, 2, 3, 4, 5, 6, 6]
    assert seen.previews


def test_what_the_clip_shows_first_is_the_picture(tmp_path, picture):
    _, outputs = moved(tmp_path / "work", picture, quality=90)
    first = next(frames_of(outputs[0].path)).astype(int)
    with Image.open(picture) as still:
        plain = still.convert("RGB").resize((192, 108), Image.Resampling.LANCZOS, (0, 10, 320, 190))
    assert np.abs(first - np.asarray(plain, int)).mean() < 2


def test_a_picture_is_turned_as_its_exif_says(tmp_path):
    path = tmp_path / "phone.jpg"
    path.write_bytes(turned(6))
    _, outputs = moved(tmp_path / "work", path, size=None)
    assert outputs[0].expect is not None
    assert (outputs[0].expect.width, outputs[0].expect.height) == (48, 64)


@pytest.mark.parametrize(
    ("still", "size"), [((320, 200), (320, 200)), ((4000, 1001), (1280, 320)), ((51, 33), (52, 34))], ids=str
)
def test_without_a_size_the_clip_has_the_pictures_own(still, size):
    from workers.engines.camera_move import own_size

    assert own_size(still) == size


@pytest.mark.parametrize(("seconds", "fps", "frames"), [(0.5, "12/1", 6), (0.1, "30000/1001", 3), (0.1, "1/1", 1)])
def test_seconds_and_rate_make_the_nearest_number_of_frames(tmp_path, picture, seconds, fps, frames):
    seen, outputs = moved(tmp_path / "work", picture, seconds=seconds, fps=fps)
    assert gate.check(outputs[0], seen.run)["frames"] == frames


def test_the_plans_number_of_frames_wins(tmp_path, picture):
    seen, outputs = moved(tmp_path / "work", picture, frames=4)
    assert gate.check(outputs[0], seen.run)["frames"] == 4


def test_padding_keeps_the_whole_picture_between_bars_that_stand_still(tmp_path, picture):
    _, outputs = moved(tmp_path / "work", picture, fit="pad", size="192x192", move="pan-left", quality=90)
    for frame in frames_of(outputs[0].path):
        assert frame[:34].max() < 12
        assert frame[-34:].max() < 12
        assert frame[40:-40].mean() > 80


def test_the_same_request_makes_the_same_bytes_and_the_seed_decides_handheld(tmp_path, picture):
    def made(name: str, **params: object) -> bytes:
        return output(moved(tmp_path / name, picture, **params)[1], "video").path.read_bytes()

    assert made("a", move="dolly-in") == made("b", move="dolly-in")
    assert made("c", move="handheld", seed=1) == made("d", move="handheld", seed=1)
    assert made("e", move="handheld", seed=1) != made("f", move="handheld", seed=2)


@pytest.mark.parametrize("data", [b"", b"I am a picture", packed(photo(), "JPEG")[:700], packed(photo(), "GIF")])
def test_a_picture_that_does_not_decode_is_bad_input(tmp_path, data):
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    with pytest.raises(BadInput) as refused:
        moved(tmp_path / "work", path)
    assert refused.value.field == "/input/image"


def test_told_to_stop_it_leaves_no_process_behind(tmp_path, picture):
    def stop(seen: Watched) -> None:
        if len(seen.reports) >= 3:
            raise Canceled("enough")

    seen = watched(tmp_path / "work", {**PARAMS, "seconds": 60}, {"image": picture}, stop=stop)
    with pytest.raises(Canceled):
        registry.load("camera-move").run(seen.run)
    assert len(seen.reports) == 3
    assert not [child for child in psutil.Process().children(recursive=True) if "ffmpeg" in " ".join(child.cmdline())]
