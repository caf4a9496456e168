"""The engine that tests rely on: its frames can be read back, and it misbehaves exactly when told to."""

from __future__ import annotations

import errno
import gc
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace

import numpy as np
import pytest
from runs import JOB, Watched, frames_of, output, watched

from framewright.errors import Canceled, EngineError, InvalidOutput
from workers.engines import registry
from workers.engines import scripted as scripted_engine
from workers.engines.scripted import Stamp, read_stamp, stamp
from workers.media import gate

PARAMS = {"frames": 6, "fps": "24/1", "size": "160x96", "steps": 4, "step_ms": 0, "until_attempt": 1}


def scripted(work: Path, *, attempt: int = 1, **params: object) -> Watched:
    return watched(work, {**PARAMS, **params}, step="clip", attempt=attempt)


def ran(seen: Watched) -> list[gate.Output]:
    return registry.load("scripted").run(seen.run)


@pytest.mark.parametrize("size", ["96x80", "160x90", "320x192", "1280x720"])
@pytest.mark.parametrize("name", ["video", "playback"])
def test_every_frame_says_who_made_it_even_after_encoding(tmp_path, size, name):
    seen = watched(tmp_path, {**PARAMS, "size": size}, step="a-long_step-name-of-32-characters"[:32], attempt=7)
    outputs = ran(seen)
    stamps = [read_stamp(frame) for frame in frames_of(output(outputs, name).path)]
    assert stamps == [Stamp(JOB.removeprefix("job_"), "a-long_step-name-of-32-characters"[:32], 7, i) for i in range(6)]


def test_a_frame_that_is_damaged_or_of_another_kind_is_not_read():
    frame = stamp(Stamp("ab" * 16, "clip", 1, 0), (160, 96)).copy()
    frame[40:50, 40:60] = 255 - frame[40:50, 40:60]
    for wrong in (frame, np.zeros((96, 160), np.uint8), np.full((96, 160, 3), 255, np.uint8)):
        with pytest.raises(ValueError, match="no stamp"):
            read_stamp(wrong)


def test_it_reports_steps_and_frames_shows_previews_and_keeps_checkpoints(tmp_path):
    seen = scripted(tmp_path, preview_every=2)
    ran(seen)
    assert [report.step for report in seen.reports[:4]] == [1, 2, 3, 4]
    fractions = [report.fraction for report in seen.reports]
    assert fractions == sorted(fractions)
    assert fractions[-1] < 0.99
    assert len(seen.previews) >= 2
    assert seen.checkpoints == [{"step": 1}, {"step": 2}, {"step": 3}]


def test_it_goes_on_from_its_checkpoint(tmp_path):
    seen = watched(tmp_path, PARAMS, step="clip", attempt=2, resume={"step": 3})
    outputs = ran(seen)
    assert [report.step for report in seen.reports if report.step] == [4]
    assert [read_stamp(frame).attempt for frame in frames_of(outputs[0].path)] == [2] * 6


@pytest.mark.parametrize(("switch", "error"), [("raise_at", EngineError), ("oom_at", MemoryError)])
def test_it_fails_at_the_step_named_and_only_on_the_attempts_named(tmp_path, switch, error):
    seen = scripted(tmp_path / "1", **{switch: 3})
    with pytest.raises(error):
        ran(seen)
    assert [report.step for report in seen.reports] == [1, 2]
    with pytest.raises(error):
        ran(scripted(tmp_path / "2", attempt=2, until_attempt=2, **{switch: 3}))
    assert ran(scripted(tmp_path / "3", attempt=3, until_attempt=2, **{switch: 3}))


def test_crashing_takes_the_whole_process(tmp_path):
    script = f"""
import sys
from pathlib import Path
sys.path[:0] = {sys.path!r}
from test_scripted import ran, scripted
ran(scripted(Path({str(tmp_path)!r}), crash_at=1))
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL


def test_garbage_does_not_pass_the_gate(tmp_path):
    seen = scripted(tmp_path, garbage=True)
    with pytest.raises(InvalidOutput):
        gate.check(ran(seen)[0], seen.run)


def test_a_silent_run_reports_nothing_and_still_makes_its_clip(tmp_path):
    seen = scripted(tmp_path, no_progress=True)
    assert ran(seen)
    assert seen.reports == []


def test_a_hanging_run_still_hears_that_it_is_to_stop(tmp_path):
    hanging, told = Event(), Event()

    def stop(seen: Watched) -> None:
        if len(seen.reports) == 1:
            hanging.set()
        if told.is_set():
            raise Canceled("enough")

    ended = Event()
    seen = watched(tmp_path, {**PARAMS, "hang_at": 2}, stop=stop)

    def run() -> None:
        with pytest.raises(Canceled):
            ran(seen)
        ended.set()

    thread = Thread(target=run, daemon=True)
    thread.start()
    assert hanging.wait(30)
    told.set()
    assert ended.wait(30)
    thread.join()


def test_a_stubborn_run_does_not_hear_it(tmp_path):
    def stop(_: object) -> None:
        raise Canceled("enough")

    assert ran(watched(tmp_path, {**PARAMS, "stubborn": True}, stop=stop))


def test_a_step_takes_the_time_it_is_given(tmp_path, monkeypatch):
    slept: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append)
    monkeypatch.setattr(scripted_engine, "time", clock)
    ran(scripted(tmp_path, steps=2, step_ms=60))
    assert sum(slept) == pytest.approx(0.12)
    assert max(slept) < 0.05, "it listens in between"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_as_one(tmp_path):
    (tmp_path / "ballast").symlink_to("/dev/full")
    with pytest.raises(OSError, match="space") as failed:
        ran(scripted(tmp_path, fill_disk=True))
    assert failed.value.errno == errno.ENOSPC


def test_an_unknown_engine_is_named():
    with pytest.raises(EngineError, match="no engine named dream"):
        registry.load("dream")


def test_what_an_engine_brings_is_not_searched_for_garbage_after_every_run():
    gc.unfreeze()
    registry.load("scripted")
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    with pytest.raises(EngineError):
        registry.load("dream")
    assert gc.isenabled()


@pytest.mark.parametrize("name", [name for name in registry.ENGINES if name != "diffusion"])
def test_every_engine_but_that_of_diffusion_loads_under_its_name_and_without_torch(name):
    script = f"""
import sys
from workers.engines import registry
from workers.engines import scripted as scripted_engine
assert registry.load({name!r}).name == {name!r}
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{script}"], check=True)
