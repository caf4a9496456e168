"""What a run can tell its supervisor, and what it hears from it, without a process around it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from framewright.errors import Canceled, Yielded
from framewright.jobs import Phase, Progress
from workers.channel import CANCELED, YIELDED, Channel
from workers.runner import MAX_PREVIEW, _Work

RUN = 7


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    """The supervisor's end and the runner's."""
    ours, theirs = (Channel(end, send_timeout_s=5) for end in socket.socketpair())
    yield ours, theirs
    ours.close()
    theirs.close()


def test_a_checkpoint_keeps_what_its_files_held_when_it_was_made(ends: tuple[Channel, Channel], tmp_path: Path) -> None:
    supervisor, runner = ends
    work = _Work(runner, RUN, {}, tmp_path / "kept")
    file = tmp_path / "latents.bin"
    for step in (1, 2):
        file.write_bytes(b"%d" % step)
        work.checkpoint({"step": step}, [file])
    file.write_bytes(b"half of the next one")
    for step in (1, 2):
        message = supervisor.receive()
        assert (message.word, message.facts["run"], message.facts["state"]) == ("checkpoint", RUN, {"step": step})
        (copy,) = message.facts["files"]
        assert Path(copy).read_bytes() == b"%d" % step
        assert Path(copy).name == file.name


def test_a_checkpoint_is_kept_without_a_second_copy(ends: tuple[Channel, Channel], tmp_path: Path) -> None:
    supervisor, runner = ends
    file = tmp_path / "latents.bin"
    file.write_bytes(b"1")
    number = file.stat().st_ino
    _Work(runner, RUN, {}, tmp_path / "kept").checkpoint({"step": 1}, [file])
    (kept,) = supervisor.receive().facts["files"]
    assert (Path(kept).stat().st_ino, file.exists()) == (number, False)


def test_a_checkpoint_that_the_disk_does_not_take_is_left_out(ends: tuple[Channel, Channel], tmp_path: Path) -> None:
    supervisor, runner = ends
    kept, file = tmp_path / "kept", tmp_path / "latents.bin"
    work = _Work(runner, RUN, {}, kept)
    for step in (1, 2, 3):
        file.write_bytes(b"%d" % step)
        if step == 1:
            kept.touch()
        elif step == 2:
            kept.unlink()
        work.checkpoint({"step": step}, [file] if step < 3 else [file, tmp_path / "nothing.bin"])
    assert supervisor.receive().facts["state"] == {"step": 2}
    work.preview(b"small", "image/jpeg", 64, 48)
    assert supervisor.receive().word == "preview"
    assert [path.name for path in kept.iterdir()] == ["2"]


def test_a_preview_that_is_too_large_is_left_out(ends: tuple[Channel, Channel], tmp_path: Path) -> None:
    supervisor, runner = ends
    work = _Work(runner, RUN, {}, tmp_path)
    work.preview(bytes(MAX_PREVIEW + 1), "image/jpeg", 64, 48)
    work.preview(b"small", "image/jpeg", 64, 48)
    assert supervisor.receive().blob == b"small"


def test_a_run_that_is_finishing_goes_on_when_its_worker_drains_and_ends_when_it_is_canceled(
    ends: tuple[Channel, Channel], tmp_path: Path
) -> None:
    stops: dict[int, str] = {}
    work = _Work(ends[1], RUN, stops, tmp_path)
    stops[RUN - 1] = CANCELED
    work.stop()
    stops[RUN] = YIELDED
    with pytest.raises(Yielded):
        work.stop()
    work.finishing = True
    look = work.checking([])
    look()
    stops[RUN] = CANCELED
    with pytest.raises(Canceled):
        look()


def test_the_last_report_is_sent_before_the_end_and_none_after_it(
    ends: tuple[Channel, Channel], tmp_path: Path
) -> None:
    supervisor, runner = ends
    work = _Work(runner, RUN, {}, tmp_path)
    for part in (0.1, 0.2, 0.9):
        work.report(Progress(part, Phase.RENDERING))
    work.close()
    runner.send("done", {"run": RUN})
    assert supervisor.receive().facts["progress"]["fraction"] == 0.9
    assert supervisor.receive().word == "done"
