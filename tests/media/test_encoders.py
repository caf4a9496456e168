"""Encoders: the argv of each, and that a probe, not a list, decides which is used."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image
from runs import output, watched

from framewright.errors import EngineError
from workers.media import clip, encoders, ffmpeg, gate
from workers.media.clip import Shape
from workers.media.encoders import X264, X265
from workers.media.ffmpeg import FfmpegFailed

REAL = ffmpeg.resolve()


def fake(path: Path, text: str) -> Path:
    """A program in ffmpeg's place: sh in which $ARGS is the argv and `real` runs the real one."""
    asked = 'case "$ARGS" in *" -version "*) real "$@";; esac'
    path.write_text(f'#!/bin/sh\nARGS=" $* "\nreal() {{ exec {REAL} "$@"; }}\n{asked}\n{text}\n')
    path.chmod(0o755)
    return path


def without(name: str) -> str:
    """A case arm for an encoder that is listed but does not work."""
    return f'*" {name} "*) echo "Cannot load library" >&2; exit 1;;'


@pytest.mark.parametrize(
    ("quality", "x264", "hevc"), [(100, 1, 5), (85, 8, 12), (65, 18, 22), (50, 26, 30), (0, 51, 51)]
)
def test_quality_maps_to_the_scales_of_the_encoders(quality, x264, hevc):
    assert (encoders.x264_scale(quality), encoders.hevc_scale(quality)) == (x264, hevc)


@pytest.mark.parametrize(
    ("system", "machine", "names"),
    [
        ("darwin", "arm64", ["hevc_videotoolbox", "hevc_videotoolbox (software)", "libx265", "libx264"]),
        ("darwin", "x86_64", ["hevc_videotoolbox", "libx265", "libx264"]),
        ("linux", "x86_64", ["hevc_nvenc", "hevc_qsv", "hevc_vaapi", "hevc_amf", "libx265", "libx264"]),
    ],
)
def test_each_machine_has_its_order_of_preference(system, machine, names):
    assert [encoder.label for encoder in encoders.table(system, machine)] == names


def test_the_argv_of_video_toolbox_follows_the_chip():
    silicon = encoders.table("darwin", "arm64")[0].args(65)
    intel = encoders.table("darwin", "x86_64")[0].args(65)
    assert " ".join(silicon) == ("-c:v hevc_videotoolbox -profile:v main -q:v 65 -allow_sw 0 -realtime 0 -prio_speed 0")
    assert "-q:v" not in intel, "Intel Macs know no constant quality"
    assert intel[intel.index("-b:v") + 1] == "4100k"


@pytest.mark.parametrize(
    "encoder", [*encoders.table("linux"), *encoders.table("darwin", "arm64")], ids=lambda e: e.label
)
def test_every_clip_is_tagged_for_players_whatever_encodes_it(encoder):
    argv = encoders.target(encoder, 65, Fraction(24), "video.mp4")
    assert argv[argv.index("-tag:v") + 1] == {"hevc": "hvc1", "h264": "avc1"}[encoder.codec]
    assert argv[argv.index("-movflags") + 1] == "+faststart"
    assert "setparams=range=tv:colorspace=bt709:color_primaries=bt709" in argv[argv.index("-vf") + 1]
    assert argv[-1] == "video.mp4"


def test_odd_sides_are_refused_before_ffmpeg_writes_nothing():
    with pytest.raises(EngineError, match="odd"):
        encoders.source(X265, 1279, 720, Fraction(24))


def test_the_software_encoders_work_here():
    assert {"libx265", "libx264"} <= {encoder.name for encoder in encoders.available(REAL)}


def test_an_encoder_that_is_listed_but_cannot_encode_is_not_chosen(tmp_path):
    lying = fake(tmp_path / "ffmpeg", f'case "$ARGS" in {without("libx265")} *) real "$@";; esac')
    assert not encoders.works(X265, lying)
    assert list(encoders.candidates("hevc", lying)) == []
    assert list(encoders.candidates("any", lying)) == [X264]


def test_an_encoder_that_writes_nothing_is_not_chosen_though_it_reports_success(tmp_path):
    assert not encoders.works(X265, fake(tmp_path / "ffmpeg", "cat > /dev/null; exit 0"))


def test_a_program_that_changed_is_probed_again(tmp_path):
    binary = fake(tmp_path / "ffmpeg", "exit 1")
    assert not encoders.works(X264, binary)
    fake(binary, 'real "$@"  # now it works')
    assert encoders.works(X264, binary)


def test_a_mac_whose_hardware_is_busy_uses_apples_software_encoder_and_says_so(tmp_path, monkeypatch):
    mac = encoders.table("darwin", "arm64")
    monkeypatch.setattr(encoders, "table", lambda: mac)
    busy = fake(
        tmp_path / "ffmpeg",
        'case "$ARGS" in *"hevc_videotoolbox"*"-allow_sw 0"*) exit 1;; *"hevc_videotoolbox"*) for last; do :; done;'
        ' cat > /dev/null; echo video > "$last";; *) real "$@";; esac',
    )
    first = next(encoders.candidates("hevc", busy))
    assert (first.label, first.hardware) == ("hevc_videotoolbox (software)", False)


def frames(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (320, 192), (40 * index, 128, 200)) for index in range(count)]


def test_hardware_that_fails_on_the_job_is_given_up_for_software_and_named(tmp_path):
    """NVENC passes its probe, then runs out of sessions; the job goes on with x265 from its first frame."""
    nvenc = fake(
        tmp_path / "ffmpeg",
        'case "$ARGS" in *" hevc_nvenc "*" probe.mp4 "*) cat > /dev/null; echo video > probe.mp4;;'
        f' {without("hevc_nvenc")} *) real "$@";; esac',
    )
    seen = watched(tmp_path / "work", {}, ffmpeg=nvenc)
    outputs = clip.write(seen.run, Shape(320, 192, Fraction(24), 4), lambda: frames(4))
    assert outputs[0].meta["encoder"] == "libx265"
    assert outputs[0].meta["gave_up"] == ["hevc_nvenc"]
    assert gate.check(outputs[0], seen.run)["frames"] == 4


def test_software_that_fails_fails_the_job(tmp_path):
    broken = fake(
        tmp_path / "ffmpeg", f'case "$ARGS" in *" probe.mp4 "*) real "$@";; {without("libx265")} *) exit 9;; esac'
    )
    with pytest.raises(FfmpegFailed, match="Cannot load library"):
        clip.write(
            watched(tmp_path / "work", {}, ffmpeg=broken).run, Shape(320, 192, Fraction(24), 4), lambda: frames(4)
        )


def test_no_encoder_at_all_is_said_plainly(tmp_path):
    none = fake(tmp_path / "ffmpeg", "exit 1")
    with pytest.raises(EngineError, match="no encoder for hevc works"):
        clip.write(watched(tmp_path / "work", {}, ffmpeg=none).run, Shape(320, 192, Fraction(24), 4), lambda: frames(4))


def test_a_frame_of_another_size_stops_the_clip_instead_of_shearing_it(tmp_path):
    mixed = [*frames(2), Image.new("RGB", (322, 192))]
    with pytest.raises(EngineError, match="does not belong"):
        clip.write(watched(tmp_path, {}).run, Shape(320, 192, Fraction(24), 3), lambda: mixed)


@pytest.mark.parametrize(
    ("size", "small"),
    [((320, 192), (320, 192)), ((1920, 1080), (1280, 720)), ((1080, 1920), (720, 1280)), ((4096, 400), (1280, 124))],
    ids=str,
)
def test_the_playback_rendition_is_at_most_720p_and_never_larger_than_the_clip(tmp_path, size, small):
    assert clip.playback_size(Shape(*size, Fraction(24), 1)) == small


def test_a_clip_comes_with_a_poster_and_a_rendition_for_players_without_hevc(tmp_path):
    seen = watched(tmp_path, {})
    outputs = clip.write(seen.run, Shape(320, 192, Fraction(30000, 1001), 4), lambda: frames(4))
    assert [(made.name, made.content_type) for made in outputs] == [
        ("video", "video/mp4"),
        ("poster", "image/jpeg"),
        ("thumbnail", "image/jpeg"),
        ("sprite", "image/jpeg"),
        ("playback", "video/mp4"),
    ]
    checked = {made.name: gate.check(made, seen.run) for made in outputs}
    assert checked["video"]["fps"] == checked["playback"]["fps"] == "30000/1001"
    assert checked["video"]["codecs"].startswith("hvc1.")
    assert checked["playback"]["codecs"].startswith("avc1.64")
    assert checked["poster"] == {"width": 320, "height": 192}
    with Image.open(output(outputs, "poster").path) as poster:
        assert poster.size == (320, 192)


def test_an_h264_clip_needs_no_rendition(tmp_path):
    outputs = clip.write(watched(tmp_path, {}).run, Shape(320, 192, Fraction(24), 2, codec="h264"), lambda: frames(2))
    assert [made.name for made in outputs] == ["video", "poster", "thumbnail", "sprite"]


def test_the_same_frames_make_the_same_bytes(tmp_path):
    def made(name: str) -> list[bytes]:
        outputs = clip.write(watched(tmp_path / name, {}).run, Shape(320, 192, Fraction(24), 4), lambda: frames(4))
        return [output.path.read_bytes() for output in outputs]

    assert made("a") == made("b")


def test_progress_is_told_after_every_frame_and_never_falls(tmp_path):
    seen = watched(tmp_path, {})
    clip.write(seen.run, Shape(320, 192, Fraction(24), 5, begun=0.5), lambda: frames(5))
    assert [report.frames_done for report in seen.reports] == [1, 2, 3, 4, 5, 5]
    fractions = [report.fraction for report in seen.reports]
    assert fractions == sorted(fractions)
    assert 0.5 < fractions[0] < fractions[-1] < 0.99
    assert {report.frames_total for report in seen.reports} == {5}
    data, mime, width, height = seen.previews[0]
    assert (data[:3], mime, width, height) == (b"\xff\xd8\xff", "image/jpeg", 320, 192)
