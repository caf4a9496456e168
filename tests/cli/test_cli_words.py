"""What commands say, to people and to scripts, without a service."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from framewright.cli.entry import _fail, main
from framewright.cli.exits import Exit, of_job
from framewright.cli.following import JobBar, waiting_text
from framewright.cli.making import ENCODE_FLAGS, _counted, _named, job_line, params
from framewright.cli.output import Out, rate_text, seconds_text, size_text, visible
from framewright.cli.parser import parser
from framewright.cli.progress import Lines, transferred
from framewright.cli.spelling import typed
from framewright.client import ApiError, Event, Job
from framewright.embedded.datadir import python_environment
from framewright.errors import FieldError

JOB = {"id": "job_1", "kind": "animate", "status": "queued"}


class Told:
    """A bar that remembers."""

    def __init__(self) -> None:
        self.shown: list[tuple[float, str, str | None]] = []
        self.notes: list[str] = []

    def update(self, fraction: float, text: str, *, label: str | None = None) -> None:
        self.shown.append((fraction, text, label))

    def note(self, text: str) -> None:
        self.notes.append(text)


def leaves(command: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    groups = [action for action in command._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield path
    for group in groups:
        for name, child in group.choices.items():
            yield from leaves(child, (*path, name))


@pytest.mark.parametrize("command", sorted(leaves(parser())), ids=" ".join)
def test_every_command_explains_itself_and_speaks_json(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([*command, "--help"])
    assert left.value.code == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize("command", sorted(leaves(parser())), ids=" ".join)
def test_every_command_has_the_function_it_names(command: tuple[str, ...]) -> None:
    from importlib import import_module

    found = parser()
    for name in command:
        group = next(action for action in found._actions if isinstance(action, argparse._SubParsersAction))
        found = group.choices[name]
    module, _, function = found.get_default("run").partition(":")
    assert callable(getattr(import_module(f"framewright.cli.{module}"), function))


def test_no_command_is_answered_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert all(f"{status.value:>3}  {status.meaning}" in text for status in Exit)


@pytest.mark.parametrize("wrong", [["jobs"], ["jobs", "get"], ["animate"], ["up", "--workers", "some"], ["frobnicate"]])
def test_wrong_arguments_are_status_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(wrong)
    assert left.value.code == Exit.USAGE


def test_the_meaning_of_a_status_never_changes() -> None:
    assert {status.name: int(status) for status in Exit} == {
        "OK": 0,
        "JOB_FAILED": 1,
        "USAGE": 2,
        "UNREACHABLE": 3,
        "REFUSED": 4,
        "CANCELED": 5,
        "MACHINE": 6,
        "NOT_GENUINE": 7,
        "INTERRUPTED": 130,
        "PIPE_CLOSED": 141,
    }
    assert [of_job(status) for status in ("succeeded", "failed", "canceled", "queued")] == [0, 1, 5, 0]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("seed=7", {"seed": 7}),
        ("move=pan-left", {"move": "pan-left"}),
        ("size=640x360", {"size": "640x360"}),
        ('fps="30000/1001"', {"fps": "30000/1001"}),
        ("fps=30000/1001", {"fps": "30000/1001"}),
        ('deep={"a":[1,2]}', {"deep": {"a": [1, 2]}}),
        ("text=a=b", {"text": "a=b"}),
        ("empty=", {"empty": ""}),
    ],
)
def test_a_parameter_is_what_it_looks_like(given: str, wanted: dict[str, Any]) -> None:
    args = parser().parse_args(["encode", "a.png", "--fps", "23.976", "-p", given])
    assert params(args, ENCODE_FLAGS) == {"fps": 23.976} | wanted


def test_a_parameter_without_a_value_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["encode", "a.png", "-p", "seed"])
    assert "NAME=TEXT" in capsys.readouterr().err


def test_pictures_are_sorted_as_people_count() -> None:
    names = ["10.png", "2.png", "a10.png", "a9.png", "1.png"]
    assert [p.name for p in sorted(map(Path, names), key=_counted)] == ["1.png", "2.png", "10.png", "a9.png", "a10.png"]


def test_what_jobs_carry_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Out().line("red \x1b[31m, reversed \u202etxt, bell \x07, half \ud800, fine äß 影")
    assert capsys.readouterr().out == "red \\u001b[31m, reversed \\u202etxt, bell \\u0007, half \\ud800, fine äß 影\n"
    assert visible("two\nlines") == "two\nlines"


def test_json_survives_anything(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"name": "half \ud800 \u2028 [bold]"}
    Out(as_json=True).answer(document, "never said")
    Out(as_json=True).note("nor this")
    written = capsys.readouterr()
    assert (written.out.count("\n"), written.err) == (1, "")
    assert json.loads(written.out) == document


def test_a_table_is_aligned_and_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    Out().table(("job", "about"), [("job_1", "x" * 200), ("job_22", None)])
    head, first, second = capsys.readouterr().out.splitlines()
    assert (head, first, second) == ("JOB     ABOUT", "job_1   " + "x" * 200, "job_22  -")


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (size_text(0), "0 B"),
        (size_text(999), "999 B"),
        (size_text(1_240_000), "1.2 MB"),
        (size_text(5e15), "5000.0 TB"),
        (seconds_text(0.42), "0.4 s"),
        (seconds_text(59.4), "59 s"),
        (seconds_text(185), "3 min 05 s"),
        (seconds_text(7800), "2 h 10 min"),
        (rate_text("30000/1001"), "29.97 fps"),
        (rate_text("24/1"), "24 fps"),
        (rate_text(None), "? fps"),
    ],
)
def test_numbers_read_well(made: str, wanted: str) -> None:
    assert made == wanted


def progress(done: int, **more: Any) -> Event:
    return Event(
        "progress", {"fraction": done / 100, "phase": "rendering", "frames_done": done, "frames_total": 100} | more
    )


def test_a_bar_tells_state_phase_frames_speed_and_time_left() -> None:
    clock = iter([10.0, 12.0])
    told = Told()
    lines = JobBar(told, Job.of(JOB), clock=lambda: next(clock))
    for event in (
        Event("queued", {}, seq=1),
        Event("step_started", {"name": "main", "step": 1, "worker": "w1", "attempt": 1}, seq=2),
        progress(10),
        progress(60, eta={"seconds_p50": 1.6, "seconds_p90": None, "basis": "current_step"}),
        Event("succeeded", {}, seq=4),
    ):
        lines.on(event)
    assert told.shown == [
        (0.0, "on w1", "running"),
        (0.1, "10/100 frames", "running rendering"),
        (0.6, "60/100 frames, 25.0 frames/s, about 1.6 s left", "running rendering"),
        (1.0, "", "succeeded"),
    ]


def test_an_attempt_that_ended_badly_is_told_with_what_comes_next() -> None:
    told = Told()
    lines = JobBar(told, Job.of(JOB))
    lost = {"attempt": 1, "outcome": "runner_lost", "message": "killed by signal 9", "final": False, "retry_in_s": 0}
    lines.on(Event("attempt_ended", lost, seq=3))
    lines.on(Event("attempt_ended", lost | {"attempt": 2, "final": True}, seq=5))
    lines.on(Event("step_started", {"name": "clip", "step": 1, "worker": "w2", "attempt": 3}, seq=6))
    assert told.notes == [
        "attempt 1 ended: runner_lost: killed by signal 9; tries again in 0.0 s",
        "attempt 2 ended: runner_lost: killed by signal 9",
    ]
    assert told.shown == [(0.0, "on w2, attempt 3", "running clip")]


def test_a_start_that_is_told_after_its_progress_does_not_take_the_bar_back() -> None:
    told = Told()
    lines = JobBar(told, Job.of(JOB))
    lines.on(progress(10))
    lines.on(Event("step_started", {"name": "main", "step": 1, "worker": "w1", "attempt": 1}, seq=2))
    lines.on(progress(20))
    assert [shown[0] for shown in told.shown] == [0.1, 0.2]
    lines.on(Event("step_succeeded", {"name": "main", "step": 1}, seq=3))
    lines.on(Event("step_started", {"name": "smooth", "step": 2, "worker": "w1", "attempt": 1}, seq=4))
    assert told.shown[-1][1:] == ("on w1", "running smooth")


def test_why_a_job_waits_is_said() -> None:
    assert waiting_text(Job.of(JOB | {"blocked_reason": "no worker"})) == "no worker"
    assert waiting_text(Job.of(JOB | {"queue_position": 3})) == "3 in line"
    assert waiting_text(Job.of(JOB)) == ""


def test_lines_come_when_the_label_changes_or_a_tenth_and_a_second_have_passed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = 0.0
    lines = Lines(Out(), "queued", clock=lambda: now)
    for done in range(101):
        now = done / 20
        lines.update(done / 100, f"{done} frames", label="running" if done < 95 else "checking")
    assert capsys.readouterr().err.splitlines() == [
        "running:   0% 0 frames",
        "running:  20% 20 frames",
        "running:  40% 40 frames",
        "running:  60% 60 frames",
        "running:  80% 80 frames",
        "checking:  95% 95 frames",
        "checking: 100% 100 frames",
    ]


def test_a_short_transfer_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(Out(), "fetching", clock=lambda: 5.0)
    show = transferred(lines, clock=lambda: 5.0)
    for done in range(0, 1001, 10):
        show(done, 1000)
    assert capsys.readouterr().err.splitlines() == ["fetching: 100% 1.0 kB of 1.0 kB"]


def test_a_transfer_tells_amount_speed_and_time_left() -> None:
    clock = iter([0.0, 0.1, 2.0])
    told = Told()
    show = transferred(told, clock=lambda: next(clock))
    show(1000, 4000)
    show(2000, 4000)
    assert told.shown == [
        (0.25, "1.0 kB of 4.0 kB", None),
        (0.5, "2.0 kB of 4.0 kB, 1.0 kB/s, 2.0 s left", None),
    ]


@pytest.mark.parametrize("arguments", [["keys", "generate"], ["keys", "generate", "--json"], ["--help"]], ids=" ".join)
def test_a_reader_that_leaves_ends_the_command_quietly(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "framewright.cli", *arguments],
            stdout=closed,
            stderr=subprocess.PIPE,
            env=os.environ | python_environment(),
            check=False,
        )
    assert done.returncode == Exit.PIPE_CLOSED
    assert b"Error" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this machine")
@pytest.mark.parametrize("arguments", [["keys", "generate"], ["keys", "generate", "--json"], ["--help"]], ids=" ".join)
def test_output_that_cannot_be_written_is_a_sentence_and_status_2(arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "framewright.cli", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            env=os.environ | python_environment(),
            text=True,
            check=False,
        )
    said = done.stderr.splitlines()[-1]
    assert (done.returncode, said) == (2, "framewright: cannot write stdout: No space left on device")


@pytest.mark.parametrize(
    ("pointers", "wanted"),
    [
        (["/body"], "framewright: no picture\n"),
        (["/input/image"], "framewright: /input/image: no picture\n"),
        (["/a", "/b"], "framewright: no picture\n  /a: no picture\n  /b: no picture\n"),
    ],
)
def test_a_sentence_is_said_once(pointers: list[str], wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    fields = tuple(FieldError(pointer, "bad", "no picture") for pointer in pointers)
    _fail(Out(), ApiError("no picture", status=422, code="bad", fields=fields))
    assert capsys.readouterr().err == wanted


def test_what_is_printed_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "venv" / "bin" / "framewright"
    command.parent.mkdir(parents=True)
    command.touch(0o755)
    monkeypatch.setattr(sys, "argv", [str(command)])
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    assert typed() == "venv/bin/framewright"
    monkeypatch.chdir(command.parent)
    assert typed() == "./framewright"
    monkeypatch.setenv("PATH", str(command.parent))
    assert typed() == "framewright"


def test_a_picture_is_called_by_its_file() -> None:
    assert _named("/input/images/1: /input/images/7", ["a.png", "b.png"]) == "b.png: /input/images/7"
    error = {"code": "bad_input", "message": "cut off", "field": "/input/images/1"}
    failed = Job.of(JOB | {"status": "failed", "error": error})
    assert job_line(failed, ["a.png", "b.png"]) == "job_1 failed: bad_input: b.png: cut off"
    assert job_line(failed) == "job_1 failed: bad_input: cut off"


def test_output_goes_where_stdout_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    caught = io.StringIO()
    monkeypatch.setattr(sys, "stdout", caught)
    Out().line("here")
    assert caught.getvalue() == "here\n"
