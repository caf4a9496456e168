"""Scratch space is private, goes with its attempt, and is swept only when its owner is dead."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest

from workers.scratch import Scratch

OWNER = """
import sys
from pathlib import Path
from workers.scratch import Scratch
scratch = Scratch(Path(sys.argv[1]))
(scratch.path / "rendering").mkdir()
print(scratch.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def owner(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def test_an_attempt_gets_empty_private_directories_which_are_gone_afterwards(tmp_path):
    scratch = Scratch(tmp_path)
    assert scratch.path.stat().st_mode & 0o777 == 0o700
    with contextlib.suppress(ZeroDivisionError), scratch.attempt("one") as place:
        for each in (place.inputs, place.work, place.kept):
            assert each.stat().st_mode & 0o777 == 0o700
            assert list(each.iterdir()) == []
        (place.work / "half.mp4").write_bytes(b"x")
        raise ZeroDivisionError
    assert not place.work.parent.exists()
    scratch.close()
    assert list(tmp_path.iterdir()) == []


def test_a_living_workers_scratch_is_left_alone_and_a_dead_ones_is_swept(tmp_path, owner):
    theirs = owner.stdout.readline().strip()
    mine = Scratch(tmp_path)
    assert mine.sweep() == 0
    assert any(path.name == "rendering" for path in (tmp_path / theirs).iterdir())
    owner.kill()
    owner.wait()
    assert mine.sweep() == 1
    assert [str(path) for path in tmp_path.iterdir()] == [str(mine.path)]
    mine.close()


def test_a_directory_that_is_not_locked_yet_is_left_alone(tmp_path):
    (tmp_path / "framewright-scratch-newborn").mkdir()
    scratch = Scratch(tmp_path)
    assert scratch.sweep() == 0
    assert (tmp_path / "framewright-scratch-newborn").is_dir()
    scratch.close()
