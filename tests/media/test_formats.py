"""Every format that a clip is asked for in: written by a real ffmpeg, decoded whole, and with its true colours."""

from __future__ import annotations

import io
import json
import subprocess
import wave
import zipfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from runs import output, watched
from stills import photo
from test_encoders import REAL, fake, without

from framewright.errors import EngineError, InvalidOutput
from framewright.jobs import COMPANIONS
from framewright.provenance.signing import BESIDE, FORMATS
from workers.engines.run import Output
from workers.media import clip, encoders, files, gate, sandbox, tags
from workers.media.clip import Shape
from workers.media.sound import Sound

SIZE = (128, 96)
CODECS = {
    "h264": ("video/mp4", "video.mp4", "avc1."),
    "hevc": ("video/mp4", "video.mp4", "hvc1."),
    "prores": ("video/quicktime", "video.mov", "apch"),
    "webm": ("video/webm", "video.webm", "vp9"),
    "gif": ("image/gif", "video.gif", "gif"),
    "png": ("application/zip", "video.zip", "png"),
}
HELD = {"h264": "mp4a.40.2", "hevc": "mp4a.40.2", "prores": "pcm_s16le", "webm": "opus"}
FACTS = {"model": "some", "params": {"prompt": 'a = b; #c\\ "d"\nÄ 😀'}, "seed": 7}


def pictures(count: int = 12, size: tuple[int, int] = SIZE) -> list[Image.Image]:
    wide = photo(size[0] + count, size[1])
    return [wide.crop((index, 0, index + size[0], size[1])) for index in range(count)]


def tone(rate: int = 24000, seconds: float = 0.48, channels: int = 2) -> Sound:
    t = np.arange(round(rate * seconds)) / rate
    return Sound(np.stack([np.sin(t * 2 * np.pi * 440 * (one + 1)) / 2 for one in range(channels)]).astype("f4"), rate)


def made(work: Path, codec: str, fps: Fraction = Fraction(25), count: int = 12, **more: object) -> list[Output]:
    shape = Shape(*SIZE, fps, count, codec=codec)
    return clip.write(watched(work, {}).run, shape, lambda: pictures(count), **more)  # type: ignore[arg-type]


def checked(one: Output) -> dict[str, object]:
    return gate.check(one, watched(one.path.parent, {}).run)


@pytest.mark.parametrize("codec", CODECS)
def test_a_clip_of_every_format_passes_the_gate_with_all_that_goes_with_it(tmp_path, codec):
    outputs = made(tmp_path, codec)
    kind, name, codecs = CODECS[codec]
    assert (outputs[0].name, outputs[0].content_type, outputs[0].path.name) == ("video", kind, name)
    beside = ["poster", "thumbnail", "sprite"] + ["playback"] * (codec in ("hevc", "prores", "png"))
    assert [one.name for one in outputs[1:]] == beside
    assert set(beside) <= COMPANIONS
    found = {one.name: checked(one) for one in outputs}
    video = found["video"]
    assert [video[key] for key in ("width", "height", "frames", "fps", "duration_s")] == [128, 96, 12, "25/1", 0.48]
    assert str(video["codecs"]).startswith(codecs)
    for one in found.values():
        assert {"width", "height"} <= one.keys()


def test_every_file_that_is_made_carries_a_manifest_or_has_one_beside_it():
    kinds = {file.content_type for file in (*files.FORMATS.values(), files.WAV)}
    assert kinds <= FORMATS | BESIDE


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("expect", "says"),
    [
        ({"frames": 13}, "number of frames is 12 instead of 13"),
        ({"frames": 11}, "number of frames is 12 instead of 11"),
        ({"width": 126}, "128"),
    ],
    ids=str,
)
def test_a_file_that_is_not_what_was_promised_is_refused_in_every_format(tmp_path, codec, expect, says):
    video = made(tmp_path, codec)[0]
    assert video.expect is not None
    with pytest.raises(InvalidOutput, match=says):
        checked(replace(video, expect=replace(video.expect, **expect)))


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec != "png"])
def test_another_rate_than_was_promised_is_refused_where_the_file_has_one(tmp_path, codec):
    video = made(tmp_path, codec)[0]
    assert video.expect is not None
    with pytest.raises(InvalidOutput, match="instead of its turn"):
        checked(replace(video, expect=replace(video.expect, fps="24/1")))


@pytest.mark.parametrize("codec", CODECS)
def test_a_file_cut_short_is_refused_in_every_format(tmp_path, codec):
    video = made(tmp_path, codec)[0]
    whole = video.path.read_bytes()
    for part in (0.3, 0.7, 0.95):
        video.path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(InvalidOutput):
            checked(video)


@pytest.mark.parametrize("codec", CODECS)
def test_a_black_clip_is_refused_in_every_format_unless_its_source_was_black(tmp_path, codec):
    dark = [Image.new("RGB", SIZE)] * 4
    video = clip.write(watched(tmp_path, {}).run, Shape(*SIZE, Fraction(25), 4, codec=codec), lambda: dark)[0]
    assert checked(video)["frames"] == 4
    assert video.expect is not None
    with pytest.raises(InvalidOutput, match="every frame is black"):
        checked(replace(video, expect=replace(video.expect, black=False)))


def smooth(width: int = 320, height: int = 192) -> Image.Image:
    """Colours that change too slowly for 4:2:0 to lose them; what is wrong after a round trip is the matrix."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 60 + y / 90 + turn) * 90 + 127 for turn in (0, 2.1, 4.2)]
    return Image.fromarray(np.dstack(waves).round().astype(np.uint8))


def decoded(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The frames as a good player shows them, by BT.709; PyAV's conversion from ten bits rounds too coarsely."""
    exact = "scale=in_color_matrix=bt709:in_range=tv:flags=accurate_rnd+full_chroma_int+full_chroma_inp"
    made = subprocess.run(
        [REAL, "-loglevel", "error", "-i", path, "-vf", exact, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
        check=True,
        capture_output=True,
    )
    return np.frombuffer(made.stdout, np.uint8).reshape(-1, size[1], size[0], 3)


def psnr(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((found.astype(float) - wanted.astype(float)) ** 2)))


@pytest.mark.parametrize("codec", ["h264", "hevc", "prores", "webm"])
def test_colours_come_back_as_they_were_when_decoded_by_the_tags(tmp_path, codec):
    still = smooth()
    shape = Shape(*still.size, Fraction(25), 3, quality=97, codec=codec)
    video = clip.write(watched(tmp_path, {}).run, shape, lambda: [still] * 3)[0]
    checked(video)
    frames = decoded(video.path, still.size)
    assert len(frames) == 3
    assert min(psnr(frame, np.asarray(still)) for frame in frames) >= 43


def test_numbered_frames_are_exactly_the_frames_and_say_how_their_colours_are_meant(tmp_path):
    video = made(tmp_path, "png")[0]
    with zipfile.ZipFile(video.path) as held:
        assert held.namelist() == [f"frame_{index:05}.png" for index in range(12)]
        assert {entry.compress_type for entry in held.infolist()} == {zipfile.ZIP_STORED}
        for index, wanted in enumerate(pictures()):
            with Image.open(io.BytesIO(held.read(f"frame_{index:05}.png"))) as picture:
                assert picture.tobytes() == wanted.tobytes()
                assert picture.info["srgb"] == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda names: {**names, "extra.txt": b"x"}, "number of frames is 13"),
        (
            lambda names: {"frame_00001.png" if k == "frame_00000.png" else k: v for k, v in names.items()},
            "frames is 11",
        ),
        (lambda names: {**names, "frame_00003.png": names["frame_00003.png"][:200]}, "does not decode"),
        (lambda names: {**names, "frame_00003.png": _other_size()}, "frame_00003.png is RGB of"),
    ],
    ids=["extra", "missing", "damaged", "size"],
)
def test_a_zip_with_other_frames_than_those_is_refused(tmp_path, change, says):
    video = made(tmp_path, "png")[0]
    with zipfile.ZipFile(video.path) as held:
        names = {name: held.read(name) for name in held.namelist()}
    with zipfile.ZipFile(video.path, "w") as other:
        for name, data in change(names).items():
            other.writestr(name, data)
    with pytest.raises(InvalidOutput, match=says):
        checked(video)


def _other_size() -> bytes:
    packed = io.BytesIO()
    photo(64, 48).save(packed, "PNG")
    return packed.getvalue()


def test_a_gif_keeps_its_time_to_the_hundredth_and_loops(tmp_path):
    video = made(tmp_path, "gif", Fraction(100, 3))[0]
    with Image.open(video.path) as picture:
        assert picture.info["duration"] == 30
        assert picture.info["loop"] == 0
    assert checked(video)["fps"] == "100/3"


@pytest.mark.parametrize("fps", [24, 60, 100])
def test_a_gif_at_a_rate_that_it_cannot_keep_is_refused_and_not_silently_another(tmp_path, fps):
    with pytest.raises(EngineError, match="GIF cannot show"):
        made(tmp_path, "gif", Fraction(fps))


@pytest.mark.parametrize("codec", ["h264", "prores", "webm"])
def test_an_odd_size_is_refused_where_the_codec_cannot_have_it(tmp_path, codec):
    with pytest.raises(EngineError, match="odd"):
        clip.write(
            watched(tmp_path, {}).run, Shape(127, 95, Fraction(25), 2, codec=codec), lambda: pictures(2, (127, 95))
        )


@pytest.mark.parametrize("codec", ["gif", "png"])
def test_an_odd_size_is_kept_where_the_format_has_it(tmp_path, codec):
    run = watched(tmp_path, {}).run
    outputs = clip.write(run, Shape(127, 95, Fraction(25), 2, codec=codec), lambda: pictures(2, (127, 95)))
    found = {one.name: checked(one) for one in outputs}
    assert (found["video"]["width"], found["video"]["height"]) == (127, 95)


def test_a_webm_is_av1_where_there_is_no_vp9_and_says_so(tmp_path):
    binary = fake(tmp_path / "ffmpeg", f'case "$ARGS" in {without("libvpx-vp9")} *) real "$@";; esac')
    run = watched(tmp_path / "work", {}, ffmpeg=binary).run
    video = clip.write(run, Shape(*SIZE, Fraction(25), 4, codec="webm"), lambda: pictures(4))[0]
    assert "av1" in str(video.meta["encoder"])
    assert str(checked(video)["codecs"]).startswith("av01.")


def test_frames_without_h264_at_hand_come_without_a_rendition(tmp_path):
    binary = fake(tmp_path / "ffmpeg", f'case "$ARGS" in {without("libx264")} *) real "$@";; esac')
    run = watched(tmp_path / "work", {}, ffmpeg=binary).run
    outputs = clip.write(run, Shape(*SIZE, Fraction(25), 4, codec="png"), lambda: pictures(4))
    assert [one.name for one in outputs] == ["video", "poster", "thumbnail", "sprite"]


# --- sound


@pytest.mark.parametrize("rate", [24000, 48000])
@pytest.mark.parametrize("codec", HELD)
def test_sound_goes_into_the_file_and_lasts_as_long_as_the_picture(tmp_path, codec, rate):
    outputs = made(tmp_path, codec, sound=tone(rate))
    for one in outputs:
        if one.content_type.startswith("video/"):
            found = checked(one)
            assert str(found["codecs"]).endswith(HELD[codec] if one.name == "video" else "mp4a.40.2")
            assert pitch(one.path) == pytest.approx(440, abs=12)
    assert outputs[0].meta["sound"] == {"rate": 48000 if codec == "webm" else rate, "channels": 2}
    assert "sound" not in [one.name for one in outputs]
    silent = made(tmp_path / "silent", codec)
    assert pictures_of(outputs[0].path) == pictures_of(silent[0].path), "the picture is not encoded another time"


def pitch(path: Path) -> float:
    """The strongest frequency of the first channel (Hz)."""
    with av.open(str(path)) as held:
        rate = held.streams.audio[0].sample_rate
        resampler = av.AudioResampler("fltp", None, rate)
        heard = np.concatenate([part.to_ndarray() for f in held.decode(audio=0) for part in resampler.resample(f)], 1)
    spectrum = np.abs(np.fft.rfft(heard[0]))
    return float(np.argmax(spectrum[1:]) + 1) * rate / heard.shape[1]


def pictures_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as held:
        return [bytes(packet) for packet in held.demux(video=0) if packet.size]


@pytest.mark.parametrize("codec", ["gif", "png"])
def test_sound_of_a_format_that_has_none_is_a_file_of_its_own(tmp_path, codec):
    outputs = made(tmp_path, codec, sound=tone())
    wav = output(outputs, "sound")
    assert (wav.content_type, wav.path.suffix) == ("audio/wav", ".wav")
    assert checked(wav) == {"sound": {"rate": 24000, "channels": 2}, "duration_s": 0.48}
    with wave.open(str(wav.path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2).T
    assert np.abs(samples / 32767 - tone().samples).max() < 1 / 32767
    wav.path.write_bytes(wav.path.read_bytes()[:-4000])
    with pytest.raises(InvalidOutput, match="samples instead of"):
        checked(wav)


@pytest.mark.parametrize("seconds", [0.2, 0.9])
def test_sound_of_another_length_is_cut_or_filled_up_and_that_is_told(tmp_path, seconds):
    video = made(tmp_path, "h264", sound=tone(48000, seconds))[0]
    assert checked(video)["sound_changed_s"] == pytest.approx(0.48 - seconds, abs=1e-4)


def test_an_odd_rate_of_sound_becomes_one_that_the_codec_knows(tmp_path):
    video = made(tmp_path, "h264", sound=tone(20000))[0]
    checked(video)
    assert video.meta["sound"] == {"rate": 48000, "channels": 2}


@pytest.mark.parametrize("codec", HELD)
def test_a_file_without_its_sound_or_with_one_too_many_is_refused(tmp_path, codec):
    heard, silent = made(tmp_path / "a", codec, sound=tone())[0], made(tmp_path / "b", codec)[0]
    for one, expect in ((heard, silent.expect), (silent, heard.expect)):
        with pytest.raises(InvalidOutput, match="number of sounds"):
            checked(replace(one, expect=expect))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rate": 44100}, "samples a second is 24000"),
        ({"channels": 1}, "channels of sound is 2"),
        ({"duration_s": 0.4}, "sound"),
        ({"duration_s": 0.6}, "sound"),
    ],
    ids=str,
)
def test_sound_that_is_not_what_was_promised_is_refused(tmp_path, change, says):
    video = made(tmp_path, "h264", sound=tone())[0]
    assert video.expect is not None
    assert video.expect.sound is not None
    wrong = replace(video.expect, sound=replace(video.expect.sound, **change))
    with pytest.raises(InvalidOutput, match=says):
        checked(replace(video, expect=wrong))


def test_silence_is_refused_unless_silence_was_made(tmp_path):
    quiet = Sound(np.zeros((1, 11520), np.float32), 24000)
    video = made(tmp_path, "h264", sound=quiet)[0]
    assert checked(video)["sound"] == {"rate": 24000, "channels": 1}
    assert video.expect is not None
    assert video.expect.sound is not None
    with pytest.raises(InvalidOutput, match="silence"):
        checked(replace(video, expect=replace(video.expect, sound=replace(video.expect.sound, silent=False))))


@pytest.mark.parametrize(
    "samples", [np.full((2, 11520), np.nan, np.float32), np.zeros((2, 3, 4), np.float32), np.zeros((0, 9), np.float32)]
)
def test_numbers_that_are_no_sound_fail_the_run_and_name_the_model(tmp_path, samples):
    with pytest.raises(EngineError, match="sound"):
        made(tmp_path, "h264", sound=Sound(samples, 24000))


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_the_index_lies_in_front_with_sound_and_tags_too(tmp_path, codec):
    for one in made(tmp_path, codec, sound=tone(), comment=tags.comment(FACTS)):
        if one.content_type == "video/mp4":
            data = one.path.read_bytes()
            assert data.index(b"moov") < data.index(b"mdat")


# --- what a file says of itself


@pytest.mark.parametrize("codec", CODECS)
def test_a_file_says_how_it_was_made_only_when_it_was_asked_to(tmp_path, codec):
    text = tags.comment(FACTS)
    assert said(made(tmp_path / "a", codec)[0].path) is None
    outputs = made(tmp_path / "b", codec, comment=text, sound=tone())
    checked(outputs[0])
    told = said(outputs[0].path)
    assert told is not None
    assert json.loads(told) == FACTS
    for one in outputs[1:]:
        assert b"prompt" not in one.path.read_bytes(), "what was asked for is one file"


def test_the_longest_prompt_goes_into_a_file_as_well(tmp_path):
    facts = {"prompt": "😀" * 10_000, "negative_prompt": "Ä" * 10_000}
    for codec in CODECS:
        outputs = made(tmp_path / codec, codec, comment=tags.comment(facts))
        checked(outputs[0])
        assert json.loads(said(outputs[0].path) or "") == facts, codec


def said(path: Path) -> str | None:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as held:
            told = set()
            for name in held.namelist():
                with Image.open(io.BytesIO(held.read(name))) as picture:
                    told.add(picture.info.get("comment"))
        assert len(told) == 1
        return told.pop()
    if path.suffix == ".gif":
        with Image.open(path) as picture:
            told_by = picture.info.get("comment")
        return None if told_by is None else told_by.decode()
    with av.open(str(path)) as held:
        own = {key.lower(): value for key, value in held.metadata.items()}
    return own.get("comment")


# --- pictures of it


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (12, 4, 3), (97, 10, 10), (100, 10, 10), (250, 10, 10)]
)
def test_the_sprite_sheet_shows_frames_spread_evenly_and_says_which(tmp_path, count, columns, rows):
    shades = [Image.new("RGB", (320, 180), (index % 250, 100, 50)) for index in range(count)]
    outputs = clip.write(watched(tmp_path, {}).run, Shape(320, 180, Fraction(25), count, codec="h264"), lambda: shades)
    sprite = output(outputs, "sprite")
    grid = sprite.meta["grid"]
    assert (grid["columns"], grid["rows"], grid["tile_width"], grid["tile_height"]) == (columns, rows, 160, 90)
    assert grid["tiles"] == [cell * count // min(100, count) for cell in range(min(100, count))]
    with Image.open(sprite.path) as sheet:
        assert sheet.format == "JPEG"
        assert sheet.size == (sprite.meta["width"], sprite.meta["height"]) == (columns * 160, rows * 90)
        for place, index in enumerate(grid["tiles"]):
            at = (place % columns * 160 + 80, place // columns * 90 + 45)
            assert sheet.getpixel(at)[0] == pytest.approx(index % 250, abs=6)  # type: ignore[index]


def test_the_sprite_sheet_of_a_clip_shorter_than_expected_has_the_frames_there_were(tmp_path):
    run = watched(tmp_path, {}).run
    outputs = clip.write(run, Shape(*SIZE, Fraction(25), 10, codec="h264"), lambda: pictures(4))
    assert output(outputs, "sprite").meta["grid"]["tiles"] == [0, 1, 2, 3]


def test_the_thumbnail_is_small_and_the_poster_large(tmp_path):
    wide = [photo(1600, 900)] * 2
    outputs = clip.write(watched(tmp_path, {}).run, Shape(1600, 900, Fraction(25), 2, codec="h264"), lambda: wide)
    for name, size in (("thumbnail", (320, 180)), ("poster", (1280, 720))):
        with Image.open(output(outputs, name).path) as picture:
            assert (picture.format, picture.size) == ("JPEG", size)


def test_a_gif_of_many_frames_needs_no_more_memory_than_of_a_few(tmp_path, monkeypatch):
    """The colours are chosen in a pass of their own; in one pass ffmpeg would hold every frame."""
    limits = sandbox.for_frames

    def tight(width: int, height: int, frames: int, **more: bool) -> sandbox.Limits:
        return replace(limits(width, height, frames, **more), memory=1200 << 20)

    monkeypatch.setattr(clip.sandbox, "for_frames", tight)
    # Of one colour, which is quick to encode; held as frames, 450 of them would be a gigabyte all the same.
    still = Image.new("RGB", (1024, 576), (200, 40, 90))
    shape = Shape(1024, 576, Fraction(25), 450, codec="gif")
    with pytest.MonkeyPatch.context() as fast:
        fast.setattr(clip, "_is_black", lambda _: False)
        outputs = clip.write(watched(tmp_path, {}).run, shape, lambda: (still for _ in range(450)))
    assert outputs[0].path.stat().st_size > 0


def test_prores_is_tagged_ten_bits_of_422(tmp_path):
    with av.open(str(made(tmp_path, "prores")[0].path)) as held:
        assert held.streams.video[0].codec_context.pix_fmt == "yuv422p10le"


@pytest.mark.parametrize(("quality", "scale"), [(100, 1), (65, 24), (0, 63)])
def test_quality_maps_to_the_scale_of_vp9(quality, scale):
    assert encoders.vp9_scale(quality) == scale
