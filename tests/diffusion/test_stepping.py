"""A run that is taken up again ends as if nobody had touched it, to the last bit; and what must not, does not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nursery
import pytest
import shelves
import tiny
import torch
from shelves import CUTS, STEPS, Clip, Shelf

from workers.diffusion.stepping import BadSnapshot, Snapshot, WrongSchedulers

FAMILIES = list(tiny.FAMILIES)
Birth = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def birth() -> Iterator[Birth]:
    """Runs one child of the nursery to its end."""
    here = Path(__file__).parent
    paths = [str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, nursery.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def ask(**asked: Any) -> dict[str, Any]:
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        return dict(json.loads(process.stdout.readline()))

    with process:
        yield ask
        process.stdin.close()


@pytest.mark.parametrize("name", FAMILIES)
def test_control_and_previews_leave_a_run_as_stock_diffusers_makes_it(shelf: Shelf, name: str) -> None:
    stock, computed = shelf.stock(name)
    journal = shelf.journal(name)
    assert journal.clip is not None
    assert journal.clip.digest == stock.digest
    assert (stock.sound is not None) == tiny.FAMILIES[name].audio
    assert journal.forwards == computed
    assert journal.total == STEPS * tiny.FAMILIES[name].segments


@pytest.mark.fault
@pytest.mark.parametrize(("name", "cut"), [(name, cut) for name in FAMILIES for cut in CUTS[name]])
def test_a_process_killed_in_the_middle_of_a_step_is_taken_over_by_another(
    shelf: Shelf, birth: Birth, name: str, cut: int, tmp_path: Path
) -> None:
    stock, computed = shelf.stock(name)
    folder = shelf.repository(name)
    asked = {"name": name, "folder": str(folder), "snapshot": str(tmp_path / "snapshot.pt"), "cut": cut}
    assert birth(mode="die", **asked) == {"signal": signal.SIGKILL}
    taken = birth(mode="resume", **asked)
    total = STEPS * tiny.FAMILIES[name].segments
    left = computed * (total - cut) // total
    denoisers = taken.pop("denoisers")
    if "a14b" in name:
        # Killed in the expert for strong noise at first, then in the one for weak noise.
        assert denoisers == (["transformer", "transformer_2"] if cut == 1 else ["transformer_2"])
    assert taken == {
        "exit": 0,
        "digest": stock.digest,
        "from": cut,
        "steps": total,
        "forwards": left,
        "counted": [left, computed - left],
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_a_run_cut_after_its_last_step_is_only_decoded(shelf: Shelf, name: str) -> None:
    stock, computed = shelf.stock(name)
    total = STEPS * tiny.FAMILIES[name].segments
    clip, under, forwards = shelf.resume(name, shelf.journal(name).snapshot(total))
    assert clip.digest == stock.digest
    assert (under.steps, under.forwards, under.replayed, forwards) == (total, 0, computed, [])


@pytest.mark.parametrize("name", ["wan22-i2v-a14b", "cogvideox-i2v", "animatediff-sde", "ltx2-i2v"])
def test_a_run_resumed_twice_is_still_the_same(shelf: Shelf, name: str, tmp_path: Any) -> None:
    stock, _ = shelf.stock(name)
    path = tmp_path / "second.pt"
    with pytest.raises(shelves.Stopped):
        shelf.resume(name, shelf.journal(name).snapshot(2), on_step=shelves.stop_at(4, path))
    clip, _, _ = shelf.resume(name, Snapshot.load(path))
    assert clip.digest == stock.digest


@pytest.mark.parametrize("name", ["wan22-t2v-a14b", "ltx2-t2v", "cogvideox-t2v-dpm", "animatediff-euler-a"])
def test_another_run_may_come_between_on_the_same_pipeline(shelf: Shelf, name: str, tmp_path: Any) -> None:
    stock, _ = shelf.stock(name)
    pipe, path, generator = shelf.load(name), tmp_path / "first.pt", tiny.seeded()
    with pytest.raises(shelves.Stopped), shelves.control(pipe, name, generator, on_step=shelves.stop_at(3, path)):
        shelves.call(pipe, name, generator)
    between = Clip.of(shelves.call(pipe, name, tiny.seeded(8), num_inference_steps=4))
    clip, _, _ = shelves.resumed(pipe, name, Snapshot.load(path))
    assert between.digest != stock.digest
    assert clip.digest == stock.digest


def test_noise_that_the_scheduler_draws_from_the_process_is_resumed_too(shelf: Shelf, tmp_path: Any) -> None:
    # LTX hands its scheduler no generator: stochastic sampling draws from torch's own.
    def load() -> Any:
        pipe = shelf.load("ltx-t2v")
        pipe.scheduler.register_to_config(stochastic_sampling=True)
        torch.manual_seed(3)
        return pipe

    with torch.random.fork_rng():
        pipe, path, generator = load(), tmp_path / "noise.pt", tiny.seeded()
        whole = Clip.of(shelves.call(pipe, "ltx-t2v", tiny.seeded()))
        pipe = load()
        with (
            pytest.raises(shelves.Stopped),
            shelves.control(pipe, "ltx-t2v", generator, on_step=shelves.stop_at(3, path)),
        ):
            shelves.call(pipe, "ltx-t2v", generator)
        snapshot = Snapshot.load(path)
        clip, _, _ = shelves.resumed(load(), "ltx-t2v", snapshot)
        assert clip.digest == whole.digest
        other = replace(snapshot, ambient=(torch.Generator().manual_seed(4).get_state(),))
        clip, _, _ = shelves.resumed(load(), "ltx-t2v", other)
        assert clip.digest != whole.digest


def _bare(snapshot: Snapshot) -> Snapshot:
    """Without what a multistep scheduler remembers of earlier steps."""
    kept = ("_step_index", "_begin_index", "num_inference_steps", "timesteps", "sigmas")
    schedulers = [
        {**one, "state": {name: value for name, value in one["state"].items() if name in kept}}
        for one in snapshot.schedulers
    ]
    return replace(snapshot, schedulers=tuple(schedulers))


def _misdrawn(snapshot: Snapshot) -> Snapshot:
    return replace(snapshot, generator=tiny.seeded(99).get_state())


def _perturbed(snapshot: Snapshot) -> Snapshot:
    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            if "_tensor" in value:
                return {**value, "_tensor": value["_tensor"] + 0.01}
            return {name: moved(one) for name, one in value.items()}
        return type(value)(moved(one) for one in value) if isinstance(value, tuple) else value

    first, *rest = snapshot.schedulers
    return replace(snapshot, schedulers=({**first, "answer": moved(first["answer"])}, *rest))


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("wan21-t2v", _bare),
        ("animatediff-dpm", _bare),
        ("animatediff-sde", _bare),
        ("cogvideox-t2v-dpm", _misdrawn),
        ("animatediff-sde", _misdrawn),
        ("animatediff-euler-a", _misdrawn),
        ("ltx-keyframes", _misdrawn),
        ("ltx-t2v", _perturbed),
        ("ltx2-t2v", _perturbed),
        ("wan21-t2v", _perturbed),
        ("hunyuan-t2v", _perturbed),
        ("hunyuan15-t2v", _perturbed),
        ("mochi", _perturbed),
        ("svd", _perturbed),
    ],
)
def test_a_snapshot_that_lost_something_does_not_pass_for_a_good_one(shelf: Shelf, name: str, harm: Any) -> None:
    clip, _, _ = shelf.resume(name, harm(shelf.journal(name).snapshot(3)))
    assert clip.digest != shelf.stock(name)[0].digest


@pytest.mark.parametrize(("name", "count"), [("ltx2-t2v", 1), ("wan21-t2v", 2)])
def test_a_row_that_counts_its_schedulers_wrong_is_told_at_once(shelf: Shelf, name: str, count: int) -> None:
    pipe, generator = shelf.load(name), tiny.seeded()
    with pytest.raises(WrongSchedulers), shelves.control(pipe, name, generator, schedulers=count) as under:
        shelves.call(pipe, name, generator)
    assert under.steps <= 1
    assert Clip.of(shelves.call(pipe, name, tiny.seeded())).digest == shelf.stock(name)[0].digest


def test_a_snapshot_of_other_schedulers_is_refused(shelf: Shelf) -> None:
    with pytest.raises(BadSnapshot, match="2 schedulers"):
        shelf.resume("wan21-t2v", shelf.journal("ltx2-t2v").snapshot(3))


def test_a_snapshot_of_another_model_is_refused(shelf: Shelf) -> None:
    with pytest.raises(BadSnapshot, match="unet:0"):
        shelf.resume("svd", shelf.journal("wan21-t2v").snapshot(3))


def test_a_snapshot_of_a_longer_run_is_refused(shelf: Shelf) -> None:
    pipe, generator = shelf.load("ltx-t2v"), tiny.seeded()
    snapshot = shelf.journal("ltx-t2v").snapshot(5)
    with pytest.raises(BadSnapshot, match="step 5"), shelves.control(pipe, "ltx-t2v", generator, resume=snapshot):
        shelves.call(pipe, "ltx-t2v", generator, num_inference_steps=4)
