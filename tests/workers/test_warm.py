"""Weights of models that were given up stay in main memory, as the kernel itself says of real files."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from desk import supervised
from test_unloading import MOCHI, WAN, order, paused, shown
from waiting import until

from framewright import store
from workers.warm import Warm

SIZE = 4 << 20
pytestmark = pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="has no page cache that can be emptied")


@pytest.fixture
def warm() -> Iterator[Warm]:
    """Room for two models of three."""
    made = Warm(2 * SIZE)
    made.start()
    yield made
    made.close()


def model(place: Path, name: str, *, size: int = SIZE) -> Path:
    """A model's folder with weights in two files, none of them in memory."""
    for part in ("transformer", "vae"):
        path = place / name / part / "weights.safetensors"
        path.parent.mkdir(parents=True)
        with path.open("wb") as file:
            file.write(os.urandom(size // 2))
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    (place / name / "config.json").write_text("{}")
    if held(place / name):
        pytest.skip("this disk is memory itself")
    return place / name


def held(folder: Path) -> float:
    """The part of a model's weights that lies in memory (0..1)."""
    pages = [page for path in folder.rglob("*.safetensors") for page in _resident(path)]
    return sum(pages) / len(pages)


def _resident(path: Path) -> list[int]:
    size = path.stat().st_size
    found = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE) as mapped:
        start = ctypes.c_char.from_buffer(mapped)
        assert ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), found) == 0
        del start
    return [page & 1 for page in found]


def kept(warm: Warm, name: str, folder: Path) -> None:
    """Has a model kept until it is seen to be, again where the kernel took the memory for something else meanwhile."""
    until(lambda: warm.keep(name, folder) or held(folder) == 1.0)


def test_a_model_that_was_given_up_is_read_into_memory(warm: Warm, tmp_path: Path) -> None:
    folder = model(tmp_path, "one")
    kept(warm, "one", folder)


def test_the_model_given_up_longest_ago_makes_room(warm: Warm, tmp_path: Path) -> None:
    folders = {name: model(tmp_path, name) for name in ("one", "two", "three")}
    for name in ("one", "two", "one", "three"):
        kept(warm, name, folders[name])
    until(warm._asked.empty)
    assert list(warm._kept) == ["one", "three"]
    assert held(folders["two"]) == 0.0


def test_a_model_that_is_too_large_or_gone_is_left_alone_and_the_next_one_kept(warm: Warm, tmp_path: Path) -> None:
    large, small = model(tmp_path, "large", size=2 * SIZE + 2), model(tmp_path, "small")
    gone = tmp_path / "gone"
    gone.mkdir()
    (gone / "weights.safetensors").symlink_to(tmp_path / "nowhere")
    for folder in (large, gone, small):
        warm.keep(folder.name, folder)
    kept(warm, "small", small)
    assert held(large) == 0.0


def test_nothing_is_read_while_another_model_is_loaded(warm: Warm, tmp_path: Path) -> None:
    first, second = model(tmp_path, "one"), model(tmp_path, "two")
    warm.keep("one", first)
    until(lambda: held(first) == 1.0)
    warm.pause()
    warm.keep("two", second)
    # It took the order, and does no more than that.
    until(warm._asked.empty)
    assert held(second) == 0.0
    warm.go_on()
    until(lambda: held(second) == 1.0)


def test_a_worker_reads_what_it_gave_up_only_after_the_attempt_that_loads_the_next_model(desk, quick, tmp_path) -> None:
    """The runner is the scripted one: who may read is for the supervisor to say."""
    settings = quick.model_copy(update={"models_dir": tmp_path, "host_cache_gb": 1.0})
    folder = model(tmp_path, WAN)
    with supervised(settings) as worker:
        paused(desk, worker)
        worker._runner_for(order(WAN))
        worker._runner_for(order(MOCHI))
        until(lambda: shown(desk, worker) == ("idle", [MOCHI]))
        until(worker._warm._asked.empty)
        assert held(folder) == 0.0
        job_id = desk.submit()
        store.set_worker_control(desk.db, worker.name, "run")
        desk.succeeded(job_id)
        # The kernel may take some of it at any time.
        until(lambda: held(folder) > 0.0)


def test_without_room_nothing_is_read(tmp_path: Path) -> None:
    warm, folder = Warm(0), model(tmp_path, "one")
    warm.start()
    warm.keep("one", folder)
    warm.close()
    assert held(folder) == 0.0
