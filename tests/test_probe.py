"""What an upload really is, found out by a child that can do nothing else."""

from __future__ import annotations

import contextlib
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import stills
from PIL import Image

from framewright.errors import UnsupportedMedia
from framewright.probe import Probed, probe_file, sniff

LIMIT = 33_177_600


def probed(tmp_path: Path, data: bytes, name: str = "file", **more: int) -> Probed:
    path = tmp_path / name
    path.write_bytes(data)
    return probe_file(path, **{"max_pixels": LIMIT, **more})


@pytest.fixture(scope="module")
def clip_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    import imageio_ffmpeg

    place = tmp_path_factory.mktemp("clips")

    def made(name: str, *args: str) -> bytes:
        source = ["-f", "lavfi", "-i", "testsrc=size=160x120:rate=24:duration=1"]
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", *source, *args, place / name]
        subprocess.run(command, check=True, capture_output=True)
        return (place / name).read_bytes()

    return made


@pytest.mark.parametrize(
    ("kind", "content_type"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")]
)
def test_pictures_are_known_by_their_content(tmp_path, kind, content_type):
    found = probed(tmp_path, stills.packed(stills.photo(), kind), "named.txt")
    assert found == Probed("image", content_type, 64, 48, 1)


def test_a_phones_multi_picture_jpeg_is_a_jpeg(tmp_path):
    data = stills.packed(stills.photo(), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert probed(tmp_path, data).content_type == "image/jpeg"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_size_is_that_of_the_picture_the_right_way_up(tmp_path, kind):
    found = probed(tmp_path, stills.turned(6, kind))
    assert (found.width, found.height) == (48, 64)


@pytest.mark.parametrize(
    ("name", "args", "content_type"),
    [
        ("a.mp4", ("-c:v", "libx264"), "video/mp4"),
        ("a.mov", ("-c:v", "libx265", "-x265-params", "log-level=error"), "video/quicktime"),
        ("a.mkv", ("-c:v", "libx264", "-f", "matroska"), "video/x-matroska"),
        ("a.webm", ("-c:v", "libvpx-vp9"), "video/webm"),
        ("f.mp4", ("-c:v", "libx264", "-movflags", "frag_every_frame+empty_moov+default_base_moof"), "video/mp4"),
    ],
)
def test_clips_are_known_by_their_content_and_measured(tmp_path, clip_of, name, args, content_type):
    found = probed(tmp_path, clip_of(name, *args))
    assert found == Probed("video", content_type, 160, 120, 24, "24/1", 1.0)


@pytest.mark.parametrize(
    ("name", "degrees", "size"),
    [
        ("r.mp4", 90, (120, 160)),
        ("r.mov", -90, (120, 160)),
        ("r.mkv", 270, (120, 160)),
        ("r.mp4", 89.5, (120, 160)),
        ("r.mp4", 180, (160, 120)),
        ("r.mp4", 45, (160, 120)),
    ],
)
def test_the_size_of_a_clip_is_that_in_which_ffmpeg_shows_it(tmp_path, clip_of, name, degrees, size):
    import imageio_ffmpeg

    plain, turned, shown = tmp_path / "plain.mp4", tmp_path / name, tmp_path / "shown.png"
    plain.write_bytes(clip_of("p.mp4", "-c:v", "libx264"))
    program = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error"]
    subprocess.run([*program, "-display_rotation", str(degrees), "-i", plain, "-c", "copy", turned], check=True)
    subprocess.run([*program, "-i", turned, "-frames:v", "1", shown], check=True)
    found = probed(tmp_path, turned.read_bytes())
    with Image.open(shown) as picture:
        assert (found.width, found.height) == picture.size == size


def test_a_clip_with_sound_and_subtitles_is_measured_by_its_pictures(tmp_path, clip_of):
    words = tmp_path / "words.srt"
    words.write_text("1\n00:00:00,000 --> 00:00:00,500\nhello\n")
    extra = ("-f", "lavfi", "-i", "sine=duration=1", "-i", str(words), "-map", "0", "-map", "1", "-map", "2")
    found = probed(tmp_path, clip_of("s.mkv", *extra, "-c:v", "libx264", "-c:s", "srt"))
    assert (found.frames, found.fps) == (24, "24/1")


@pytest.mark.parametrize(
    ("name", "args", "content_type"),
    [
        ("a.wav", (), "audio/wav"),
        ("a.flac", (), "audio/flac"),
        ("a.mp3", (), "audio/mpeg"),
        ("b.mp3", ("-id3v2_version", "0", "-write_xing", "0"), "audio/mpeg"),
        ("a.ogg", ("-c:a", "libvorbis"), "audio/ogg"),
        ("o.ogg", ("-c:a", "libopus"), "audio/ogg"),
    ],
)
def test_sounds_are_known_by_their_content_and_measured(tmp_path, clip_of, name, args, content_type):
    found = probed(tmp_path, clip_of(name, "-f", "lavfi", "-i", "sine=duration=1.5", "-map", "1", *args))
    assert found == Probed("other", content_type, duration_s=found.duration_s)
    assert found.duration_s == pytest.approx(1.5, abs=0.06)  # lossy ones come in whole blocks


def weights(header: bytes, data: bytes = bytes(8)) -> bytes:
    """A safetensors file: the length of its header, the header, the numbers."""
    return len(header).to_bytes(8, "little") + header + data


LORA = b'{"blocks.0.lora_A.weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


def test_the_weights_of_a_lora_are_known_by_their_header(tmp_path):
    assert probed(tmp_path, weights(LORA)) == Probed("other", "application/x-safetensors")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (weights(LORA, bytes(7)), "the file is refused: its tensors end at byte 8 of data, and there are 7"),
        (weights(LORA[:-2] + b",}}"), "the file is refused: the header is no valid JSON"),
        (weights(LORA.replace(b"F32", b"F33")), "unknown dtype 'F33'"),
        ((7_000_000).to_bytes(8, "little") + LORA, "claims 7000000 bytes, more than the file"),
        ((1 << 60).to_bytes(8, "little") + LORA, "this is not a picture"),
    ],
)
def test_weights_that_are_none_are_refused(tmp_path, data, why):
    with pytest.raises(UnsupportedMedia, match=re.escape(why)):
        probed(tmp_path, data)


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
REFUSED = {
    "nothing": b"",
    "nul": b"\0" * 4096,
    "text.png": b"I am a picture, believe me.\n" * 50,
    "page.jpg": b"<!doctype html><html><script>alert(1)</script></html>",
    "playlist.mp4": PLAYLIST,
    "playlist-behind-a-box.mp4": b"\0\0\0\x08ftyp" + PLAYLIST,
    "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "gif": stills.packed(stills.photo(), "GIF"),
    "tiff": stills.packed(stills.photo(), "TIFF"),
    "cut.jpg": stills.packed(stills.photo(), "JPEG")[:700],
    "cut.png": stills.packed(stills.photo(), "PNG")[:100],
    "cut.webp": stills.packed(stills.photo(), "WEBP", lossless=True)[:60],
    "header-only.png": b"\x89PNG\r\n\x1a\n",
    "header-only.jpg": b"\xff\xd8\xff\xe0",
    "header-only.wav": b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\xbb\0\0\0\x77\x01\0\x02\0\x10\0data\0\0\0\0",
    "header-only.flac": b"fLaC" + bytes(40),
    "header-only.ogg": b"OggS" + bytes(40),
    "tags-only.mp3": b"ID3\x04\0\0\0\0\0\x0a" + bytes(40),
    "playlist-behind-tags.mp3": b"ID3\x04\0\0\0\0\0\0" + PLAYLIST,
    "header-only.mkv": b"\x1a\x45\xdf\xa3" + bytes(40),
    "animated.webp": stills.animated("WEBP"),
    "animated.png": stills.animated("PNG"),
    "huge.webp": stills.huge_webp(16_000, 16_000),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_a_picture_or_clip_is_refused_with_a_sentence(tmp_path, name):
    with pytest.raises(UnsupportedMedia) as refused:
        probed(tmp_path, REFUSED[name], name)
    assert 10 < len(refused.value.detail) < 200
    assert str(tmp_path) not in refused.value.detail


def test_a_clip_too_large_or_without_pictures_is_refused(tmp_path, clip_of):
    with pytest.raises(UnsupportedMedia, match="too large: 160x120 is more than 10000 pixels"):
        probed(tmp_path, clip_of("l.mp4", "-c:v", "libx264"), max_pixels=10_000)
    with pytest.raises(UnsupportedMedia, match="no pictures"):
        probed(tmp_path, clip_of("v.mp4", "-f", "lavfi", "-i", "sine=duration=1", "-map", "1"))


def test_a_clip_cut_off_before_its_index_is_refused(tmp_path, clip_of):
    data = clip_of("c.mp4", "-c:v", "libx264")
    with pytest.raises(UnsupportedMedia, match="damaged or was cut short"):
        probed(tmp_path, data[: len(data) // 2])


def test_the_limit_is_on_pixels_and_exact(tmp_path):
    data = stills.packed(Image.new("L", (100, 50)))
    assert probed(tmp_path, data, max_pixels=5000).width == 100
    with pytest.raises(UnsupportedMedia, match="too large: 100x50 is more than 4999 pixels"):
        probed(tmp_path, data, max_pixels=4999)


def test_what_looks_like_a_bomb_is_a_picture_when_it_is_small_enough(tmp_path):
    assert probed(tmp_path, stills.huge_png(3000, 3000)).width == 3000


def test_a_bomb_is_refused_by_its_header_without_unpacking_it(tmp_path):
    """A 30,000 x 30,000 PNG would take 900 MB; nobody who looks at it, child included, may come near that."""
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(stills.huge_png(30_000, 30_000))
    script = f"""
import resource
from pathlib import Path
from framewright.errors import UnsupportedMedia
from framewright.probe import probe_file
try:
    probe_file(Path({str(bomb)!r}), max_pixels={LIMIT})
except UnsupportedMedia as error:
    print(error.detail)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=_env())
    said, peak = done.stdout.splitlines()
    assert said == "the picture is too large: 30000x30000 is more than 33177600 pixels"
    assert int(peak) < (200 << 10 if sys.platform == "linux" else 200 << 20)


def test_a_picture_of_the_largest_size_fits_into_the_childs_memory(tmp_path):
    data = stills.packed(Image.new("RGB", (7680, 4320), (9, 8, 7)), "JPEG", progressive=True)
    assert probed(tmp_path, data).width == 7680


def test_looking_at_uploads_loads_no_decoder_into_this_process(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(stills.packed(stills.photo()))
    script = f"""
import sys
from pathlib import Path
from framewright.probe import probe_file
probe_file(Path({str(path)!r}), max_pixels=10_000)
print(sorted({{"PIL", "av", "numpy"}} & {{name.partition(".")[0] for name in sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=_env())
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "attempt",
    [
        "open('/etc/passwd')",
        "open('made.txt', 'w')",
        "__import__('socket').socket()",
        "__import__('os').pipe()",
        "bytearray(1_600_000_000)",
    ],
)
def test_a_decoder_that_is_taken_over_can_reach_nothing(tmp_path, attempt):
    script = f"""
import socket, sys
from framewright import probe_child
def look(file, max_pixels):
    try:
        return str({attempt})
    except (OSError, MemoryError) as error:
        return type(error).__name__
probe_child._loaded = lambda family: look
sys.argv = ["", "image", "1"]
probe_child.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=_env(), cwd=tmp_path
    )
    assert done.stdout in (['"MemoryError"'] if "bytearray" in attempt else ['"OSError"', '"PermissionError"'])


def test_the_child_inherits_nothing_secret(tmp_path, monkeypatch):
    from framewright import probe

    monkeypatch.setenv("FRAMEWRIGHT_S3_SECRET_KEY", "secret")
    assert "secret" not in str(probe.environment())


def test_a_child_that_dies_is_an_unusable_file_not_a_crash(tmp_path, monkeypatch):
    from framewright import probe

    monkeypatch.setattr(probe.sys, "executable", "/bin/false")
    with pytest.raises(UnsupportedMedia, match="more memory or time"):
        probed(tmp_path, stills.packed(stills.photo()))


def test_a_child_that_takes_too_long_is_killed(tmp_path, monkeypatch):
    from framewright import probe

    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o755)
    monkeypatch.setattr(probe.sys, "executable", str(slow))
    monkeypatch.setattr(probe, "PATIENCE_S", 0.2)
    with pytest.raises(UnsupportedMedia, match="too long"):
        probed(tmp_path, stills.packed(stills.photo()))


def test_a_missing_file_is_not_a_bad_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        probe_file(tmp_path / "missing", max_pixels=LIMIT)


def test_damaged_uploads_are_known_or_refused_and_nothing_else(tmp_path, clip_of):
    random.seed(5)
    sources = [stills.turned(6), stills.packed(stills.photo(), "WEBP"), clip_of("d.mp4", "-c:v", "libx264")]
    for _ in range(20):
        data = bytearray(random.choice(sources))
        for _ in range(random.randint(1, 20)):
            data[random.randrange(12, len(data))] = random.randrange(256)
        with contextlib.suppress(UnsupportedMedia):
            assert probed(tmp_path, bytes(data)).width > 0


def test_the_first_bytes_tell_families_apart():
    assert [sniff(head) for head in (b"", b"GIF89a", b"#EXTM3U", b"%PDF-1.7", b"PK\3\4")] == [None] * 5


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
