"""`up` and `demo`: what is printed, what other terminals find, and that nothing is left running."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_line import COMMAND, clean_environment
from PIL import Image
from waiting import until

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.radial_gradient("L").resize((320, 192)).convert("RGB").save(path)
    return path


@pytest.fixture
def data(data_home: Path, request: pytest.FixtureRequest) -> Path:
    """A data directory of this test's own, on a path that the servers' account can reach as any other."""
    return data_home / request.node.name.replace("[", "-").replace("]", "")


@contextmanager
def started(home: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A command that stays; killed at the end if it is still there."""
    child = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=home,
        env=clean_environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


def first_line(child: subprocess.Popen[str]) -> Any:
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line, child.stderr.read() if child.stderr else ""
    return json.loads(line)


def below(data: Path) -> list[str]:
    """Processes that have to do with this data directory, by what they were started with."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "environ"]):
        about = " ".join([*(process.info["cmdline"] or ()), *(process.info["environ"] or {}).values()])
        if process.pid != os.getpid() and str(data) in about:
            found.append(about[:200])
    return found


def test_up_says_where_it_is_serves_and_stops_whole(framewright: Run, tmp_path: Path, data: Path) -> None:
    with started(tmp_path, "up", "--data", data, "--json") as child:
        ready = first_line(child)
        assert set(ready) == {"url", "api_key", "data", "pids"}
        assert ready["data"] == str(data)
        assert set(ready["pids"]) >= {"postgres", "valkey", "s3", "api", "reconciler", "worker"}
        assert all(psutil.pid_exists(pid) for pid in ready["pids"].values())
        assert stat.S_IMODE((data / "up.json").stat().st_mode) == 0o600
        listed = framewright("workers", "--json")
        assert listed.returncode == 0, listed.stdout
        assert json.loads(listed.stdout)["data"]
        assert framewright("jobs", "ls", "--data", data).returncode == 0
        child.send_signal(signal.SIGTERM)
        rest, said = child.communicate(timeout=90)
    assert (child.returncode, rest, said) == (0, "", "")
    assert not [pid for pid in ready["pids"].values() if psutil.pid_exists(pid)]
    assert framewright("jobs", "ls").returncode == 2
    assert not (data / "up.json").exists()


def test_up_tells_a_person_what_to_type_and_is_the_same_the_next_time(
    framewright: Run, tmp_path: Path, data: Path, photo: Path
) -> None:
    with started(tmp_path, "up", "--data", data, "--workers", "0") as child:
        assert child.stdout is not None
        address, key, onward = (child.stdout.readline() for _ in range(3))
        put = framewright("assets", "put", photo, "--json")
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=90)
    assert child.returncode == 0
    assert said.endswith("Stopping what was started\n")
    assert address.startswith("Framewright runs at http://127.0.0.1:")
    assert key.startswith("API key: fw_live_")
    assert "framewright animate" in onward
    with started(tmp_path, "up", "--data", data, "--workers", "0", "--json") as child:
        ready = first_line(child)
        got = framewright("assets", "get", json.loads(put.stdout)["id"], "-o", "back.jpg")
        child.send_signal(signal.SIGHUP)
        child.communicate(timeout=90)
    assert child.returncode == 0
    assert "worker" not in ready["pids"]
    assert f" {ready['url']} " in address
    assert key == f"API key: {ready['api_key']}\n"
    assert got.returncode == 0, got.stderr
    assert (tmp_path / "back.jpg").read_bytes() == photo.read_bytes()


def test_up_on_a_taken_port_is_status_6_and_leaves_nothing(framewright: Run, data: Path) -> None:
    with socket.socket() as mine:
        mine.bind(("127.0.0.1", 0))
        mine.listen()
        port = str(mine.getsockname()[1])
        done = framewright("up", "--data", data, "--port", port)
    assert done.returncode == 6
    assert port in done.stderr
    assert "Traceback" not in done.stderr
    assert below(data) == []


def test_up_is_refused_on_a_folder_of_something_else(framewright: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    done = framewright("up", "--data", "mine", "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (6, "embedded_server")


def test_ctrl_c_during_the_start_leaves_nothing(tmp_path: Path, data: Path) -> None:
    with started(tmp_path, "up", "--data", data) as child:
        until(lambda: (data / "postgres" / "PG_VERSION").exists())
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=90)
    assert child.returncode == 0
    assert "Traceback" not in said
    assert below(data) == []


def test_demo_leaves_the_video_beside_the_picture_and_nothing_running(
    framewright: Run, tmp_path: Path, photo: Path, data: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = framewright("demo", photo, "--data", data, "--seconds", "0.5", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    video = tmp_path / "photo.camera-move.mp4"
    first = video.read_bytes()
    assert first[4:8] == b"ftyp"
    file, honest, onward = done.stdout.splitlines()
    assert file.startswith(f"{video}  ")
    assert "320x192, 12 frames, 0.5 s, 24 fps" in file
    assert "invents nothing" in honest
    assert "framewright up" in onward
    assert "\x1b" not in done.stderr
    assert below(data) == []
    assert list(elsewhere.iterdir()) == []

    again = framewright("demo", photo, "--data", data, "--seconds", "0.5", "--json")
    answer = json.loads(again.stdout)
    assert (again.returncode, answer["job"]["status"]) == (0, "succeeded")
    assert answer["file"] == str(tmp_path / "photo.camera-move-2.mp4")
    assert video.read_bytes() == first
    assert below(data) == []


def test_demo_without_a_picture_uses_its_own_and_can_stay_up(framewright: Run, tmp_path: Path, data: Path) -> None:
    short = ("--seconds", "0.2", "--size", "320x180")
    with started(tmp_path, "demo", "--data", data, *short, "--keep", "--json") as child:
        ready = first_line(child)
        assert framewright("jobs", "get", ready["job"]["id"]).returncode == 0
        child.terminate()
        child.communicate(timeout=90)
    assert child.returncode == 0
    assert ready["file"] == "demo.camera-move.mp4"
    assert (tmp_path / "demo.camera-move.mp4").read_bytes()[4:8] == b"ftyp"
    assert below(data) == []


def test_demo_of_something_that_is_no_picture_is_refused(framewright: Run, tmp_path: Path, data: Path) -> None:
    (tmp_path / "fake.png").write_text("no picture")
    done = framewright("demo", "fake.png", "--data", data)
    assert done.returncode == 4
    assert below(data) == []
    assert framewright("demo", "nothing.png", "--data", data).returncode == 2


def test_ctrl_c_during_the_demo_leaves_nothing(tmp_path: Path, photo: Path, data: Path) -> None:
    with started(tmp_path, "demo", photo, "--data", data, "--seconds", "60", "--size", "1280x768") as child:
        assert child.stderr is not None
        for line in child.stderr:
            if line.startswith("running"):
                break
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=90)
    assert child.returncode == 130
    assert "nothing is left running" in said
    assert below(data) == []
    assert not (tmp_path / "photo.camera-move.mp4").exists()
