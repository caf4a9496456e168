"""A scratch disk that fills up: a typed failure or a retry, never a partial file."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from house import House, scratch_of
from waiting import until


@pytest.fixture
def small_disk(data_home: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        pytest.skip("mounting a small file system takes root on Linux")
    at = data_home / f"small-disk-{uuid.uuid4().hex[:6]}"
    at.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(at)]
    mounted = subprocess.run(mount, check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr}")
    yield at
    subprocess.run(["umount", "-l", str(at)], check=True)


@pytest.mark.parametrize(
    ("width", "height"),
    [pytest.param(640, 360, id="while rendering"), pytest.param(1280, 960, id="while downloading")],
)
def test_a_full_scratch_disk_ends_the_attempt_by_name_and_publishes_nothing(
    build: Callable[..., House], small_disk: Path, width: int, height: int
) -> None:
    house = build(workers=0)
    house.system.spawn_worker(scratch_dir=small_disk)
    params = {"move": "zoom-in", "seconds": 20, "fps": 30, "quality": 100, "size": "640x360"}
    picture = {"image": house.noise(width, height)}
    asked = house.post({"kind": "animate", "model": "camera-move", "input": picture, "params": params})
    job = str(asked.raise_for_status().json()["id"])
    until(lambda: house.outcomes(job)[:1] == ["transient_infra"], deadline_s=120)
    told = next(event["data"] for event in house.events(job) if event["type"] == "attempt_ended")
    assert "space" in told["message"] or "disk" in told["message"]
    assert house.artifacts(job) == house.job(job)["outputs"] == []
    house.http.post(f"/api/v1/jobs/{job}/cancel").raise_for_status()
    house.succeeded(house.submit(frames=4, steps=1))
    assert {Path(left).name for left in scratch_of(small_disk)} == {"lock"}, "only the worker's own lock stays"
