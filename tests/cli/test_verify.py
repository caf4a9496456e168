"""`framewright verify`: a job's video, a touched one and an unsigned one, told apart for people and for scripts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stills

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def clip(service: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a job of the service made, fetched by the client."""
    from framewright.client import Client

    place = tmp_path_factory.mktemp("clip")
    picture = place / "still.png"
    picture.write_bytes(stills.packed(stills.photo()))
    with Client(service.url, service.api_key) as client:
        asset = client.assets.put(picture)
        asked = {"kind": "animate", "input": {"image": asset.id}, "params": {"seconds": 0.5, "fps": 8}}
        job = client.jobs.create(asked)
        while not job.ended:
            job = client.jobs.get(job.id, wait_s=30)
        video = next(output for output in job.outputs if output.name == "video")
        return client.jobs.download(video, place / "clip.mp4")


def test_the_video_of_a_job_holds(framewright: Run, at_service: dict[str, str], clip: Path) -> None:
    done = framewright("verify", clip, **at_service)
    assert done.returncode == 0, done.stderr
    assert "valid: it is as it was signed" in done.stdout
    assert "action: c2pa.edited, algorithmicallyEnhanced, A virtual camera" in done.stdout
    assert "development certificate" in done.stdout
    assert "made from: asset_" in done.stdout


def test_a_script_reads_the_answer_of_the_service(framewright: Run, at_service: dict[str, str], clip: Path) -> None:
    done = framewright("verify", clip, "--json", **at_service)
    said = json.loads(done.stdout)
    assert (said["signed"], said["valid"], said["trusted"]) == (True, True, "development")
    assert said["job"].startswith("job_")


def test_an_asset_is_verified_where_it_lies(
    framewright: Run, at_service: dict[str, str], clip: Path, tmp_path: Path
) -> None:
    listed = json.loads(framewright("jobs", "ls", "--json", "--limit", "1", **at_service).stdout)
    output = listed["data"][0]["outputs"][0]["asset"]
    assert framewright("verify", output, **at_service).returncode == 0


def test_a_touched_video_and_an_unsigned_picture_end_with_status_7(
    framewright: Run, at_service: dict[str, str], clip: Path, tmp_path: Path
) -> None:
    touched = tmp_path / "touched.mp4"
    data = bytearray(clip.read_bytes())
    data[-50] ^= 1
    touched.write_bytes(data)
    done = framewright("verify", touched, **at_service)
    assert done.returncode == 7
    assert "NOT VALID" in done.stdout
    assert "problem: assertion.bmffHash.mismatch" in done.stdout
    plain = tmp_path / "plain.png"
    plain.write_bytes(stills.packed(stills.photo()))
    done = framewright("verify", plain, **at_service)
    assert (done.returncode, done.stdout) == (7, "not signed: the file says nothing of how it was made\n")


def test_a_file_that_is_missing_or_no_media_is_a_clear_refusal(
    framewright: Run, at_service: dict[str, str], tmp_path: Path
) -> None:
    assert framewright("verify", tmp_path / "none.mp4", **at_service).returncode == 2
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    done = framewright("verify", text, **at_service)
    assert done.returncode == 4
    assert "notes.txt: only MP4, MOV, PNG, JPEG, WebP" in done.stderr
