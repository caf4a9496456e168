"""Every command against a whole service: what it prints, what it writes, how it exits."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, clean_environment
from PIL import Image

from framewright.client import Client
from framewright.local import System

Run = Callable[..., subprocess.CompletedProcess[str]]
SCRIPTED = ("--model", "scripted")
SLOW = (*SCRIPTED, "-p", "steps=600", "-p", "step_ms=100")


@pytest.fixture
def run(framewright: Run, at_service: dict[str, str]) -> Run:
    """`framewright` at the service."""

    def at(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        return framewright(*arguments, **at_service | env)

    return at


@pytest.fixture
def client(service: System) -> Iterator[Client]:
    with Client(service.url, service.api_key) as one:
        yield one


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "my photo.png"
    Image.linear_gradient("L").resize((320, 192)).convert("RGB").save(path)
    return path


@pytest.fixture
def slow_job(run: Run, client: Client, photo: Path) -> Iterator[str]:
    """A job that runs for a minute unless somebody ends it."""
    job_id = document(run("animate", photo, *SLOW, "--no-wait", "--json"))["id"]
    yield job_id
    client.jobs.cancel(job_id)


def document(done: subprocess.CompletedProcess[str]) -> Any:
    """The one JSON document on stdout."""
    assert done.stdout.count("\n") == 1, (done.stdout, done.stderr)
    return json.loads(done.stdout)


def test_a_picture_becomes_a_clip_in_the_folder_where_one_stands(run: Run, photo: Path, tmp_path: Path) -> None:
    done = run("animate", photo, "--seconds", "0.5", "--size", "320x192", "--move", "pan-left")
    assert done.returncode == 0, done.stderr
    clip = tmp_path / "my photo.camera-move.mp4"
    assert done.stdout.startswith("my photo.camera-move.mp4  ")
    assert "320x192, 12 frames, 0.5 s, 24 fps" in done.stdout
    assert clip.read_bytes()[4:8] == b"ftyp"
    assert not [file.name for file in tmp_path.iterdir() if file.name.endswith(".part")]


def test_without_a_terminal_progress_is_plain_lines_on_stderr(run: Run, photo: Path) -> None:
    done = run("animate", photo, *SCRIPTED, "-p", "steps=20", "-p", "step_ms=20", "-o", "clip.mp4")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stderr + done.stdout
    assert "\r" not in done.stderr
    lines = done.stderr.splitlines()
    assert any(line.startswith("uploading my photo.png: 100%") for line in lines)
    assert any(re.match(r"running \w+: +\d+% ", line) for line in lines)
    assert "succeeded: 100%" in lines
    assert lines[-1].startswith("fetching clip.mp4: 100%")


def test_json_is_one_document_and_silence_beside_it(run: Run, photo: Path, tmp_path: Path) -> None:
    done = run("animate", photo, *SCRIPTED, "-o", "clip.mp4", "--json")
    answer = document(done)
    assert (done.returncode, done.stderr) == (0, "")
    assert (answer["job"]["status"], answer["files"]) == ("succeeded", ["clip.mp4"])
    wanted = answer["job"]["outputs"][0]["sha256"]
    assert hashlib.sha256((tmp_path / "clip.mp4").read_bytes()).hexdigest() == wanted


def test_on_a_terminal_a_bar_moves(photo: Path, tmp_path: Path, at_service: dict[str, str]) -> None:
    arguments = ["animate", str(photo), *SCRIPTED, "-p", "steps=10", "-p", "step_ms=50", "-o", "clip.mp4"]
    leader, follower = pty.openpty()
    environment = clean_environment(tmp_path) | at_service | {"TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=tmp_path, env=environment, stdin=follower, stdout=follower, stderr=follower
    ) as child:
        os.close(follower)
        shown = _all_of(leader)
    assert child.returncode == 0, shown
    text = shown.decode()
    assert "\x1b[" in text
    assert "\r" in text
    assert "━" in text
    assert "running denoising" in text
    assert "100%" in text
    assert "clip.mp4  " in text


def _all_of(terminal: int) -> bytes:
    """What a process writes on a terminal until it closes it."""
    shown = b""
    while select.select([terminal], [], [], 120)[0]:
        try:
            part = os.read(terminal, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(terminal)
    return shown


def test_a_file_is_never_written_over_unasked(run: Run, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.mp4").write_text("mine")
    refused = run("animate", photo, *SCRIPTED, "-o", "mine.mp4")
    assert (refused.returncode, (tmp_path / "mine.mp4").read_text()) == (2, "mine")
    assert "--overwrite" in refused.stderr
    assert run("animate", photo, *SCRIPTED, "-o", "mine.mp4", "--overwrite").returncode == 0
    assert (tmp_path / "mine.mp4").read_bytes()[4:8] == b"ftyp"
    (tmp_path / "my photo.scripted.mp4").write_text("mine")
    assert run("animate", photo, *SCRIPTED).stdout.startswith("my photo.scripted-2.mp4  ")


def test_pictures_become_a_video_in_the_order_people_count(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "shots"
    folder.mkdir()
    for number, grey in ((1, 0), (2, 120), (10, 250)):
        Image.new("RGB", (64, 64), (grey, grey, grey)).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("no picture")
    done = run("encode", "shots", "--fps", "2", "--json")
    assert done.returncode == 0, done.stdout
    answer = document(done)
    assert answer["files"] == ["shots.mp4"]
    assert (answer["job"]["outputs"][0]["frames"], len(answer["job"]["input"]["images"])) == (3, 3)
    import av

    with av.open(str(tmp_path / "shots.mp4")) as video:
        greys = [int(frame.to_ndarray(format="gray").mean()) for frame in video.decode(video=0)]
    assert greys == sorted(greys)
    assert greys[0] < 60 < greys[1] < 190 < greys[2]


def test_a_job_that_fails_is_status_1_and_says_why(run: Run, photo: Path, tmp_path: Path) -> None:
    failing = ("-p", "raise_at=1", "-p", "until_attempt=100")
    done = run("animate", photo, *SCRIPTED, *failing, "-o", "clip.mp4")
    assert done.returncode == 1
    assert " failed: app_error: " in done.stdout
    assert "attempt 1 ended: app_error" in done.stderr
    assert not (tmp_path / "clip.mp4").exists()
    job_id = done.stdout.split()[0]
    assert [run("jobs", "get", job_id).returncode, run("jobs", "watch", job_id).returncode] == [1, 1]


def test_what_the_service_refuses_is_status_4_and_named(run: Run, photo: Path) -> None:
    done = run("animate", photo, "--move", "sideways", "--seconds", "1e9")
    assert done.returncode == 4
    assert "/params/move: " in done.stderr
    assert "/params/seconds: " in done.stderr
    error = document(run("animate", photo, "--move", "sideways", "--json"))["error"]
    assert error["status"] == 422
    assert [one["pointer"] for one in error["errors"]] == ["/params/move"]


@pytest.mark.parametrize(
    "command",
    [
        ("jobs", "get"),
        ("jobs", "watch"),
        ("jobs", "cancel"),
        ("jobs", "retry"),
        ("jobs", "explain"),
        ("jobs", "rm"),
        ("jobs", "download"),
    ],
    ids=" ".join,
)
def test_an_unknown_job_is_status_4(run: Run, command: tuple[str, ...]) -> None:
    done = run(*command, "job_00000000000070008000000000000000", "--json")
    assert (done.returncode, document(done)["error"]["code"]) == (4, "not_found")


def test_nobody_there_is_status_3(framewright: Run) -> None:
    done = framewright("jobs", "ls", "--url", "http://127.0.0.1:1", "--api-key", "k")
    assert (done.returncode, done.stdout) == (3, "")
    assert "cannot reach http://127.0.0.1:1" in done.stderr


def test_no_service_at_all_is_status_2_and_says_how_to_get_one(framewright: Run) -> None:
    done = framewright("jobs", "ls")
    assert done.returncode == 2
    assert "framewright up" in done.stderr


@pytest.mark.parametrize("command", [("animate", "no.png"), ("encode", "no.png"), ("assets", "put", "no.png")])
def test_a_file_that_is_not_there_is_status_2(run: Run, command: tuple[str, ...]) -> None:
    done = run(*command)
    assert (done.returncode, done.stderr) == (2, "framewright: no.png: no such file\n")


def test_a_file_that_is_no_picture_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "fake.png").write_text("no picture")
    done = run("assets", "put", "fake.png")
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].startswith("framewright: fake.png: ")


def test_one_bad_picture_of_many_is_named_and_may_be_left_out(run: Run, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    refused = run("encode", photo, "text.jpg", photo)
    assert refused.returncode == 4
    assert "framewright: text.jpg: " in refused.stderr
    skipped = run("encode", photo, "text.jpg", photo, "--on-error", "skip", "--no-wait", "--json")
    assert "left out text.jpg: " in skipped.stderr
    job = document(skipped)
    assert len(job["input"]["images"]) == 2
    assert run("jobs", "cancel", job["id"]).returncode == 0
    none = run("encode", "text.jpg", "--on-error", "skip")
    assert none.returncode == 4

    Image.new("RGB", (64, 64)).save(tmp_path / "small.png")
    mixed = run("encode", photo, "small.png")
    assert mixed.returncode == 4
    assert "small.png: " in mixed.stderr
    assert "/input/images" not in mixed.stderr


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("-o", "nowhere/x.mp4"), "nowhere: no such folder"),
        (("-o", "x.mp4", "--no-wait"), "--no-wait leaves before there is a video"),
        (("-o", "."), ".: a folder; name the file"),
    ],
)
@pytest.mark.parametrize("command", ["animate", "encode"])
def test_where_the_video_goes_is_looked_at_before_anything_goes_up(
    run: Run, photo: Path, command: str, more: tuple[str, ...], said: str
) -> None:
    done = run(command, photo, *more, FRAMEWRIGHT_URL="http://127.0.0.1:1")
    assert done.returncode == 2
    assert done.stderr.startswith(f"framewright: {said}")


def test_a_folder_and_a_pipe_are_not_said_to_be_missing(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert run("animate", "pipe").stderr.startswith("framewright: pipe: no regular file")
    assert run("assets", "put", ".").stderr == "framewright: .: a folder, not a file\n"


def test_a_list_that_is_cut_says_so(run: Run, photo: Path) -> None:
    ids = [document(run("assets", "put", photo, "--json"))["id"] for _ in range(2)]
    jobs = [
        document(run("animate", ids[0], "--run-at", "2999-01-01T00:00:00Z", "--meta", "cut=1", "--no-wait", "--json"))
        for _ in range(2)
    ]
    cut = run("jobs", "ls", "--limit", "1", "--meta", "cut=1")
    assert "--limit" in cut.stderr
    one = document(run("jobs", "ls", "--limit", "1", "--meta", "cut=1", "--json"))
    assert (one["first_id"], one["last_id"], one["has_more"]) == (jobs[1]["id"], jobs[1]["id"], True)
    whole = run("jobs", "ls", "--limit", "2", "--meta", "cut=1")
    assert whole.stderr == ""
    assert document(run("assets", "ls", "--limit", "1", "--json"))["has_more"] is True

    missing = "job_00000000000070008000000000000000"
    done = run("jobs", "cancel", jobs[0]["id"], missing, "--reason", "enough of it")
    assert (done.returncode, done.stderr.startswith(f"framewright: {missing}: ")) == (4, True)
    shown = run("jobs", "get", jobs[0]["id"]).stdout
    assert "enough of it" in shown
    assert "not before: 29" in shown
    assert run("jobs", "cancel", jobs[1]["id"]).returncode == 0


def test_one_leaves_without_waiting_and_comes_back(run: Run, photo: Path, tmp_path: Path) -> None:
    submitted = run("animate", photo, *SCRIPTED, "--no-wait", "--meta", "film=one", "--priority", "7", "--json")
    job = document(submitted)
    assert (job["metadata"], job["priority"]) == ({"film": "one"}, 7)
    lines = [json.loads(line) for line in run("jobs", "watch", job["id"], "--json").stdout.splitlines()]
    seqs = [line["seq"] for line in lines if line["seq"] is not None]
    assert seqs == list(range(1, len(seqs) + 1))
    assert (lines[0]["event"], lines[-1]["event"]) == ("queued", "succeeded")
    later = [json.loads(line) for line in run("jobs", "watch", job["id"], "--json", "--after", "1").stdout.splitlines()]
    assert [line["seq"] for line in later] == seqs[1:]
    assert run("jobs", "download", job["id"], "-o", "later.mp4").returncode == 0
    assert (tmp_path / "later.mp4").read_bytes()[4:8] == b"ftyp"
    files = document(run("jobs", "download", job["id"], "--json"))["files"]
    made = ("video.mp4", "poster.jpg", "thumbnail.jpg", "sprite.jpg", "playback.mp4")
    assert files == [f"{job['id']}.{name}" for name in made]
    assert (tmp_path / files[0]).read_bytes() == (tmp_path / "later.mp4").read_bytes()
    listed = document(run("jobs", "ls", "--meta", "film=one", "--status", "succeeded", "--json"))
    assert [one["id"] for one in listed["data"]] == [job["id"]]
    table = run("jobs", "ls", "--meta", "film=one").stdout.splitlines()
    assert table[0].split()[:4] == ["JOB", "STATUS", "KIND", "MODEL"]
    assert table[1].split()[:4] == [job["id"], "succeeded", "animate", "scripted"]


def test_the_same_idempotency_key_makes_one_job(run: Run, photo: Path) -> None:
    submit = ("animate", photo, *SCRIPTED, "--no-wait", "--idempotency-key", "same", "--json")
    assert document(run(*submit))["id"] == document(run(*submit))["id"]


def test_a_canceled_job_is_status_5(run: Run, slow_job: str) -> None:
    canceled = run("jobs", "cancel", slow_job, "--reason", "enough", "--json")
    assert (canceled.returncode, document(canceled)["status"]) == (0, "canceled")
    assert run("jobs", "cancel", slow_job).returncode == 0
    watched = run("jobs", "watch", slow_job)
    assert watched.returncode == 5
    assert "canceled" in watched.stdout


def test_an_ended_job_is_tried_again_as_a_new_one(run: Run, photo: Path) -> None:
    first = document(run("animate", photo, *SCRIPTED, "--json", "-o", "a.mp4"))["job"]["id"]
    done = run("jobs", "retry", first, "--watch", "--json")
    second = document(done)
    assert (done.returncode, second["status"], second["retry_of"]) == (0, "succeeded", first)


def test_an_open_job_is_not_tried_again(run: Run, slow_job: str) -> None:
    done = run("jobs", "retry", slow_job, "--json")
    assert (done.returncode, document(done)["error"]["code"]) == (4, "conflict")


@pytest.mark.parametrize("spoken", [(), ("--json",)])
def test_ctrl_c_leaves_the_watched_job_running(
    client: Client, slow_job: str, tmp_path: Path, at_service: dict[str, str], spoken: tuple[str, ...]
) -> None:
    with subprocess.Popen(
        [*COMMAND, "jobs", "watch", slow_job, *spoken],
        cwd=tmp_path,
        env=clean_environment(tmp_path) | at_service,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as child:
        stream = child.stdout if spoken else child.stderr
        assert stream is not None
        assert stream.readline()
        child.send_signal(signal.SIGINT)
        rest, said = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "goes on" in rest + said
    assert client.jobs.get(slow_job).status in {"queued", "running"}


def test_why_a_job_waits_is_explained(run: Run, photo: Path) -> None:
    job_id = document(run("animate", photo, "--run-at", "2999-01-01T00:00:00Z", "--no-wait", "--json"))["id"]
    done = run("jobs", "explain", job_id)
    assert done.returncode == 0
    assert "Starts at 2999-01-01" in done.stdout
    assert "step " in done.stdout
    assert run("jobs", "rm", job_id).returncode == 0
    assert run("jobs", "get", job_id).returncode == 4


def test_assets_go_up_come_back_the_same_and_go_away(run: Run, photo: Path, tmp_path: Path) -> None:
    asset = document(run("assets", "put", photo, "--json"))
    assert (asset["content_type"], asset["width"], asset["height"]) == ("image/png", 320, 192)
    assert run("assets", "get", asset["id"], "-o", "back.png").returncode == 0
    assert (tmp_path / "back.png").read_bytes() == photo.read_bytes()
    shown = run("assets", "get", asset["id"]).stdout
    assert "width: 320\n" in shown
    assert not re.search(r"None|True|False|[{}]", shown)
    assert run("assets", "get", asset["id"], "-o", "back.png").returncode == 2
    assert asset["id"] in run("assets", "ls", "--limit", "1000").stdout
    assert document(run("assets", "rm", asset["id"], "--json")) == {"id": asset["id"], "deleted": True}
    assert run("assets", "get", asset["id"]).returncode == 4


def test_a_key_is_shown_once_works_and_ends(run: Run, framewright: Run, service: System) -> None:
    made = run("keys", "create", "laptop", "--scope", "jobs:read")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    mine = {"FRAMEWRIGHT_URL": service.url, "FRAMEWRIGHT_API_KEY": key}
    assert framewright("jobs", "ls", **mine).returncode == 0
    assert document(framewright("keys", "list", "--json", **mine))["error"]["code"] == "forbidden"
    listed = document(run("keys", "list", "--json"))
    (row,) = [row for row in listed["data"] if row["name"] == "laptop"]
    assert key not in json.dumps(listed)
    assert row["id"] in run("keys", "list").stdout
    assert run("keys", "revoke", row["id"]).returncode == 0
    _until_refused(lambda: framewright("jobs", "ls", **mine).returncode)


def _until_refused(ask: Callable[[], int]) -> None:
    give_up = time.monotonic() + 20
    while ask() != 4:
        assert time.monotonic() < give_up


def test_a_key_for_the_first_start_needs_no_service(framewright: Run) -> None:
    from framewright import keys

    made = framewright("keys", "generate")
    assert keys.parse(made.stdout.strip()).id
    assert document(framewright("keys", "generate", "--json"))["key"].startswith("fw_live_")


def test_workers_queues_and_models_are_shown(run: Run, service: System) -> None:
    workers = document(run("workers", "--json"))
    name = service.services["worker"].environment["FRAMEWRIGHT_WORKER_NAME"]
    assert name in [worker["id"] for worker in workers["data"]]
    assert name in run("workers").stdout
    assert {queue["name"] for queue in document(run("queues", "--json"))["data"]} >= {"cpu", "encode"}
    assert run("queues").stdout.split()[:2] == ["QUEUE", "WAITING"]
    rows = [line.split() for line in run("models").stdout.splitlines()]
    assert ["camera-move", "animate", "cpu", "yes"] in [row[:4] for row in rows]


def test_a_worker_is_paused_and_goes_on(run: Run, service: System, photo: Path) -> None:
    name = service.services["worker"].environment["FRAMEWRIGHT_WORKER_NAME"]
    assert run("workers", "--pause", name).returncode == 0
    job_id = document(run("animate", photo, *SCRIPTED, "--no-wait", "--json"))["id"]
    assert document(run("workers", "--resume", name, "--json"))["control"] == "run"
    assert run("jobs", "watch", job_id).returncode == 0
    assert run("workers", "--pause", "nobody").returncode == 4
