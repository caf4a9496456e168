"""A signed file says how it was made, plays as before, and shows when it was touched."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import threading
import uuid
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import imageio_ffmpeg
import pytest
import stills
from authority import pair

from framewright import catalogue
from framewright.catalogue.row import DigitalSource, Provenance
from framewright.errors import BadInput, Canceled, SigningFailed, UnsupportedMedia
from framewright.provenance import manifest, signing
from framewright.provenance.anchors import Anchors, anchors
from framewright.provenance.credentials import Credentials, load
from framewright.provenance.manifest import Input, Making
from framewright.provenance.signing import Unsigned, sign
from framewright.provenance.verifying import verify
from workers import provenance

GENERATED = Provenance("c2pa.created", DigitalSource.TRAINED, "A trained model made it.")
ROWS = {row.name: row.provenance for row in catalogue.rows(test_engines=True)}
KINDS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("development")
    return SimpleNamespace(provenance=True, c2pa_cert=None, c2pa_key=None, provenance_dir=place)


@pytest.fixture(scope="module")
def credentials(settings: Any) -> Credentials:
    made = load(settings)
    assert made is not None
    return made


@pytest.fixture(scope="module")
def clip_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    source = ["-f", "lavfi", "-i", "testsrc=size=192x128:rate=24:duration=1"]
    code = ["-c:v", "libx265", "-x265-params", "log-level=none", "-tag:v", "hvc1", "-movflags", "+faststart"]
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", *source, *code, path], check=True, capture_output=True
    )
    return path.read_bytes()


@pytest.fixture
def clip(tmp_path: Path, clip_bytes: bytes) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip_bytes)
    return path


@pytest.fixture
def still(tmp_path: Path) -> Path:
    path = tmp_path / "still.jpg"
    path.write_bytes(stills.packed(stills.photo(), "JPEG"))
    return path


@pytest.fixture
def made(credentials: Credentials, settings: Any) -> Callable[..., dict[str, Any]]:
    """Signs a file as the output of a model with those inputs, and says what verifies of it."""

    def do(path: Path, provenance: Provenance, *inputs: Path, kind: str = "video/mp4") -> dict[str, Any]:
        sign(credentials, making(provenance, *inputs), [Unsigned("video", path, kind)])
        return verify(path, anchors(settings))

    return do


def making(provenance: Provenance, *inputs: Path) -> Making:
    kinds = {".jpg": "image/jpeg", ".png": "image/png", ".mp4": "video/mp4", ".webm": "video/webm"}
    files = tuple(Input(path, kinds[path.suffix], f"asset_{index}") for index, path in enumerate(inputs))
    return Making("job_1", "main", "some-model", provenance, files)


def frames(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray().tobytes() for frame in container.decode(video=0)]


def boxes(path: Path) -> list[str]:
    """The types of the boxes of an MP4, outermost, in order."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        found.append(name.decode())
        at += size
    return found


def test_a_signed_clip_plays_as_before(clip, still, made):
    before, order = frames(clip), boxes(clip)
    assert made(clip, ROWS["camera-move"], still)["valid"]
    assert frames(clip) == before
    assert boxes(clip) == [order[0], "uuid", *order[1:]]
    assert boxes(clip).index("moov") < boxes(clip).index("mdat")
    with av.open(str(clip)) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"
    assert [path.name for path in clip.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_signed_too(tmp_path, made, kind):
    from PIL import Image

    path = tmp_path / "poster"
    path.write_bytes(stills.packed(stills.photo(), kind))
    with Image.open(path) as image:
        before = image.tobytes()
    assert made(path, ROWS["scripted"], kind=KINDS[kind])["valid"]
    with Image.open(path) as image:
        assert image.tobytes() == before


def test_a_camera_move_opens_its_picture_and_says_that_an_algorithm_altered_it(clip, still, made):
    said = made(clip, ROWS["camera-move"], still)
    assert (said["signed"], said["valid"], said["trusted"]) == (True, True, "development")
    assert [one["action"] for one in said["actions"]] == ["c2pa.opened", "c2pa.edited"]
    assert said["digital_source_type"] == "algorithmicallyEnhanced"
    assert said["generator"].startswith("Framewright ")
    assert said["job"] == "job_1"
    assert abs(datetime.now(UTC) - datetime.fromisoformat(said["signed_at"])) < timedelta(hours=1)
    assert said["time_stamp"] is None
    assert [(one["title"], one["relationship"], one["signed"]) for one in said["ingredients"]] == [
        ("asset_0", "parentOf", False)
    ]
    assert said["problems"] == []


def test_one_picture_encoded_is_transcoded_and_several_are_a_composite(clip, still, tmp_path, made):
    alone = made(clip, ROWS["hevc"], still)
    assert [one["action"] for one in alone["actions"]] == ["c2pa.opened", "c2pa.transcoded"]
    assert alone["digital_source_type"] is None
    other = tmp_path / "other.png"
    other.write_bytes(stills.packed(stills.photo()))
    several = made(clip, ROWS["hevc"], still, other)
    assert [one["action"] for one in several["actions"]] == ["c2pa.created", "c2pa.placed"]
    assert several["digital_source_type"] == "composite"
    assert [one["relationship"] for one in several["ingredients"]] == ["componentOf", "componentOf"]


def test_what_a_model_generates_says_so_with_and_without_an_input(clip, still, made):
    for inputs in ((), (still,)):
        said = made(clip, GENERATED, *inputs)
        assert [one["action"] for one in said["actions"]] == ["c2pa.created"]
        assert said["digital_source_type"] == "trainedAlgorithmicMedia"
        assert [one["relationship"] for one in said["ingredients"]] == ["inputTo"] * len(inputs)
        assert said["valid"]


def test_a_picture_keeps_its_own_manifest_as_the_parent(clip, still, made):
    made(still, GENERATED, kind="image/jpeg")
    said = made(clip, ROWS["camera-move"], still)
    parent = said["ingredients"][0]
    assert (parent["signed"], parent["valid"]) == (True, True)
    assert parent["digital_source_type"] == "trainedAlgorithmicMedia"


def test_a_parent_that_was_touched_is_told_from_one_that_holds(clip, still, made):
    made(still, GENERATED, kind="image/jpeg")
    flip(still, -40)
    parent = made(clip, ROWS["camera-move"], still)["ingredients"][0]
    assert (parent["signed"], parent["valid"]) == (True, False)


@pytest.mark.parametrize("name", ["broken.jpg", "some.webm"])
def test_an_input_that_the_library_cannot_read_is_an_ingredient_by_name(clip, tmp_path, still, made, name):
    odd = tmp_path / name
    odd.write_bytes(b"\xff\xd8\xff" + bytes(500))
    said = made(clip, ROWS["hevc"], still, odd)
    assert said["valid"]
    assert {one["title"] for one in said["ingredients"]} == {"asset_0", "asset_1"}


def test_of_many_pictures_the_first_become_ingredients(clip, still, made):
    said = made(clip, ROWS["hevc"], *[still] * (manifest.MOST_INGREDIENTS + 5))
    assert said["valid"]
    assert len(said["ingredients"]) == manifest.MOST_INGREDIENTS


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_one_changed_byte_of_the_picture_is_found(clip, still, made, settings):
    made(clip, ROWS["camera-move"], still)
    flip(clip, -100)
    said = verify(clip, anchors(settings))
    assert (said["signed"], said["valid"], said["trusted"]) == (True, False, None)
    assert "assertion.bmffHash.mismatch" in {one["code"] for one in said["problems"]}


def test_one_changed_letter_of_what_it_says_is_found(clip, still, made, settings):
    made(clip, ROWS["camera-move"], still)
    flip(clip, clip.read_bytes().index(b"algorithmicallyEnhanced"))
    said = verify(clip, anchors(settings))
    assert (said["signed"], said["valid"]) == (True, False)
    assert said["problems"]


def test_bytes_that_are_appended_are_found(clip, still, made, settings):
    made(clip, ROWS["camera-move"], still)
    for name in (b"free", b"mdat"):
        data = clip.read_bytes()
        clip.write_bytes(data + struct.pack(">I4s", 16, name) + b"appended")
        assert verify(clip, anchors(settings))["valid"] is False
        clip.write_bytes(data)
    assert verify(clip, anchors(settings))["valid"] is True


def test_an_unsigned_file_says_nothing(clip, still, settings):
    assert verify(clip, anchors(settings)) == {"signed": False}
    assert verify(still, anchors(settings)) == {"signed": False}


@pytest.mark.parametrize("body", [b"", b"hello", b"\xff\xd8\xff" + bytes(99), b"\0\0\0\x18ftypmp42" + b"\xff" * 50])
def test_what_is_no_picture_and_no_clip_is_refused(tmp_path, settings, body):
    path = tmp_path / "file"
    path.write_bytes(body)
    with pytest.raises(UnsupportedMedia):
        verify(path, anchors(settings))


def test_a_file_that_was_cut_short_is_refused_or_not_valid(clip, still, made, settings):
    made(clip, ROWS["camera-move"], still)
    data, answers = clip.read_bytes(), []
    for length in (len(data) - 1, len(data) // 2, 2000):
        clip.write_bytes(data[:length])
        try:
            answers.append(verify(clip, anchors(settings))["valid"])
        except UnsupportedMedia:
            answers.append("refused")
    assert True not in answers
    assert False in answers


def test_an_operators_signature_is_told_from_one_of_ours_and_of_strangers(clip, still, settings, tmp_path):
    own = SimpleNamespace(**{**vars(settings), **pair(tmp_path).settings()})
    theirs = load(own)
    assert theirs is not None
    sign(theirs, making(ROWS["camera-move"], still), [Unsigned("video", clip, "video/mp4")])
    known, unknown = verify(clip, anchors(own)), verify(clip, anchors(settings))
    assert (known["valid"], known["trusted"], known["problems"]) == (True, "operator", [])
    assert known["signer"] == {"name": "video.example.org", "organization": "Example Ltd"}
    assert (unknown["valid"], unknown["trusted"]) == (True, None)
    assert [one["code"] for one in unknown["problems"]] == ["signingCredential.untrusted"]


def test_nothing_is_trusted_where_nothing_is_known(clip, still, made):
    made(clip, ROWS["camera-move"], still)
    assert verify(clip, Anchors(None, None))["trusted"] is None


def test_no_prompt_parameter_path_or_thumbnail_gets_into_a_file(clip, still, made, tmp_path):
    before = clip.stat().st_size
    made(clip, ROWS["camera-move"], still)
    body = clip.read_bytes()
    assert str(tmp_path).encode() not in body
    assert b"thumbnail" not in body
    assert clip.stat().st_size - before < 16_000


def test_a_large_file_is_signed_and_verified_in_bounded_memory(clip, still, credentials, settings, monkeypatch):
    """It is larger than all the address space that the child has."""
    monkeypatch.setattr(signing, "MEMORY", 1_000_000_000)
    large = 1 << 30
    with clip.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(struct.pack(">I4sQ", 1, b"mdat", large + 16))
        file.truncate(file.tell() + large)
    sign(credentials, making(ROWS["camera-move"], still), [Unsigned("video", clip, "video/mp4")])
    assert verify(clip, anchors(settings))["valid"]


def test_every_file_of_a_step_is_signed_or_none(clip, still, credentials, settings):
    text = clip.with_name("notes.txt")
    text.write_text("hello")
    before = clip.read_bytes()
    with pytest.raises(SigningFailed, match="text/plain can carry no signed manifest"):
        sign(
            credentials,
            making(ROWS["scripted"]),
            [Unsigned("video", clip, "video/mp4"), Unsigned("notes", text, "text/plain")],
        )
    assert clip.read_bytes() == before
    broken = clip.with_name("broken.jpg")
    broken.write_bytes(b"no picture at all")
    with pytest.raises(SigningFailed):
        sign(
            credentials,
            making(ROWS["scripted"]),
            [Unsigned("video", clip, "video/mp4"), Unsigned("poster", broken, "image/jpeg")],
        )
    assert clip.read_bytes() == before
    assert {path.name for path in clip.parent.iterdir()} == {"clip.mp4", "notes.txt", "broken.jpg", "still.jpg"}


def test_a_cancel_stops_it_and_leaves_the_file_alone(clip, still, credentials):
    before = clip.read_bytes()
    told = threading.Event()
    told.set()
    with pytest.raises(Canceled):
        sign(credentials, making(ROWS["scripted"]), [Unsigned("video", clip, "video/mp4")], canceled=told.is_set)
    assert clip.read_bytes() == before
    assert {path.name for path in clip.parent.iterdir()} == {"clip.mp4", "still.jpg"}


def test_a_key_that_is_not_the_certificates_signs_nothing(clip, credentials, settings, tmp_path):
    """The library reads back what it wrote: a signature that does not hold is no signature."""
    from dataclasses import replace

    before = clip.read_bytes()
    wrong = replace(credentials, sign=lambda data: bytes(64))
    with pytest.raises(SigningFailed, match="could not be signed"):
        sign(wrong, making(ROWS["scripted"]), [Unsigned("video", clip, "video/mp4")])
    assert clip.read_bytes() == before


def test_a_time_stamp_authority_that_is_away_is_a_failure_to_sign(clip, credentials):
    before = clip.read_bytes()
    with pytest.raises(SigningFailed, match="could not be signed"):
        sign(
            credentials,
            making(ROWS["scripted"]),
            [Unsigned("video", clip, "video/mp4")],
            tsa_url="http://127.0.0.1:1/tsa",
        )
    assert clip.read_bytes() == before


def test_a_full_disk_is_told_as_what_it_is(clip, credentials, monkeypatch):
    before = clip.read_bytes()
    order = signing._order

    def narrow(*args: Any) -> dict[str, Any]:
        return {**order(*args), "file_bytes": 2000}

    monkeypatch.setattr(signing, "_order", narrow)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - which one is what is asked
        sign(credentials, making(ROWS["scripted"]), [Unsigned("video", clip, "video/mp4")])
    assert caught.value.errno == errno.EFBIG
    assert clip.read_bytes() == before


def test_inputs_cannot_swell_an_output_without_bound(clip, tmp_path, credentials, monkeypatch):
    """Manifests of inputs are carried on, so whoever sends a huge one must not make every output huge."""
    order = signing._order

    def narrow(*args: Any) -> dict[str, Any]:
        return {**order(*args), "most_added": 1000}

    monkeypatch.setattr(signing, "_order", narrow)
    with pytest.raises(BadInput, match="provenance data") as caught:
        sign(credentials, making(ROWS["scripted"]), [Unsigned("video", clip, "video/mp4")])
    assert caught.value.field == "/input"


def test_no_row_of_the_catalogue_is_silent_about_its_making() -> None:
    for row in catalogue.rows(test_engines=True):
        assert row.provenance.action.startswith("c2pa.")
        assert row.provenance.says
        several = any(rule.most > 1 for rule in row.inputs) or all(rule.least == 0 for rule in row.inputs)
        if row.provenance.action != manifest.CREATED and several:
            assert row.provenance.otherwise is not None, row.name


MADE = {
    "video/quicktime": ["-c:v", "prores_ks", "-pix_fmt", "yuv422p10le", "clip.mov"],
    "image/gif": ["clip.gif"],
    "audio/wav": ["-f", "lavfi", "-i", "sine", "-t", "0.5", "-map", "1:a", "clip.wav"],
    "video/webm": ["-c:v", "libvpx-vp9", "-deadline", "realtime", "clip.webm"],
}


@pytest.fixture
def other(tmp_path: Path) -> Callable[[str], Path]:
    """A file of one of the other types that clips come in."""

    def make(kind: str) -> Path:
        if kind == "application/zip":
            with zipfile.ZipFile(tmp_path / "clip.zip", "w") as file:
                for index in range(3):
                    file.writestr(f"frame_{index:05}.png", stills.packed(stills.photo()))
            return tmp_path / "clip.zip"
        source = ["-f", "lavfi", "-i", "testsrc=size=192x128:rate=25:duration=0.4"]
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", *source, *MADE[kind]]
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
        return tmp_path / MADE[kind][-1]

    return make


@pytest.mark.parametrize("kind", ["video/quicktime", "image/gif", "audio/wav"])
def test_a_clip_of_another_format_carries_its_manifest_and_shows_when_it_was_touched(other, settings, made, kind):
    path = other(kind)
    with av.open(str(path)) as container:
        before = [frame.to_ndarray().tobytes() for frame in container.decode()]
    said = made(path, GENERATED, kind=kind)
    assert (said["signed"], said["valid"], said["trusted"]) == (True, True, "development")
    assert said["digital_source_type"] == "trainedAlgorithmicMedia"
    with av.open(str(path)) as container:
        assert [frame.to_ndarray().tobytes() for frame in container.decode()] == before
    touched(path)
    assert not verify(path, anchors(settings))["valid"]


def touched(path: Path) -> None:
    """One bit of the pictures or of the sound is another."""
    data = bytearray(path.read_bytes())
    at = {".mov": data.find(b"mdat") + 3000, ".wav": data.find(b"data") + 3000}.get(path.suffix, len(data) - 300)
    data[at] ^= 1
    path.write_bytes(data)


def test_a_zip_of_frames_carries_its_manifest_and_its_frames_are_as_they_were(other, settings, made):
    path = other("application/zip")
    with zipfile.ZipFile(path) as file:
        before = {name: file.read(name) for name in file.namelist()}
    assert made(path, GENERATED, kind="application/zip")["valid"]
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        after = {name: file.read(name) for name in file.namelist() if not name.startswith("META-INF/")}
        assert {entry.compress_type for entry in file.infolist()} == {zipfile.ZIP_STORED}
    assert after == before
    data = bytearray(path.read_bytes())
    data[data.find(b"IDAT") + 10] ^= 1
    path.write_bytes(data)
    assert not verify(path, anchors(settings))["valid"]


def test_a_webm_stays_as_it_is_and_has_its_manifest_beside_it(credentials, settings, other, still):
    path = other("video/webm")
    before = path.read_bytes()
    (beside,) = sign(credentials, making(GENERATED, still), [Unsigned("video", path, "video/webm")])
    assert (beside.of, beside.path) == ("video", path.with_suffix(".c2pa"))
    assert path.read_bytes() == before
    said = verify(path, anchors(settings), sidecar=beside.path)
    assert (said["valid"], said["trusted"], said["job"]) == (True, "development", "job_1")
    assert said["digital_source_type"] == "trainedAlgorithmicMedia"
    assert [one["title"] for one in said["ingredients"]] == ["asset_0"]
    assert [one.name for one in path.parent.iterdir() if one.name.startswith(".")] == []
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert not verify(path, anchors(settings), sidecar=beside.path)["valid"]


def test_a_file_too_large_to_be_read_whole_has_its_manifest_beside_it(credentials, settings, other, monkeypatch):
    path = other("image/gif")
    monkeypatch.setattr(signing, "MOST_WHOLE", 100)
    before = path.read_bytes()
    (beside,) = sign(credentials, making(GENERATED), [Unsigned("video", path, "image/gif")])
    assert path.read_bytes() == before
    assert verify(path, anchors(settings), sidecar=beside.path)["valid"]


def test_a_damaged_manifest_beside_a_file_is_refused(credentials, settings, other):
    path = other("video/webm")
    (beside,) = sign(credentials, making(GENERATED), [Unsigned("video", path, "video/webm")])
    beside.path.write_bytes(beside.path.read_bytes()[:2000])
    with pytest.raises(UnsupportedMedia):
        verify(path, anchors(settings), sidecar=beside.path)


def test_what_a_worker_publishes_of_a_webm_has_its_manifest_among_the_outputs(credentials, settings, other, still):
    path, small = other("video/webm"), still
    outputs = [
        {"name": "video", "path": str(path), "content_type": "video/webm", "meta": {}},
        {"name": "poster", "path": str(small), "content_type": "image/jpeg", "meta": {}},
    ]
    claim = SimpleNamespace(
        job_id=uuid.uuid4(), step_name="main", kind="animate", model="scripted", inputs={}, params={}
    )
    track = SimpleNamespace(report=lambda _: None)
    published = provenance.signed(
        *(credentials, claim, outputs, {}, path.parent), track=track, canceled=lambda: False, tsa_url=None
    )
    assert [one["name"] for one in published] == ["video", "poster", "manifest"]
    assert (published[2]["content_type"], published[2]["meta"]) == ("application/c2pa", {"of": "video"})
    assert verify(path, anchors(settings), sidecar=Path(published[2]["path"]))["valid"]
    assert verify(small, anchors(settings))["valid"]
