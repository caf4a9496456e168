"""A run that is taken up again ends as if nobody had touched it, to the last bit; and what must not, does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import shelves
import tiny
import torch
from shelves import CASES, STEPS, Clip, Shelf

from workers.diffusion.stepping import BadSnapshot, Snapshot, WrongSchedulers

FAMILIES = list(tiny.FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_control_and_previews_leave_a_run_as_stock_diffusers_makes_it(shelf: Shelf, name: str) -> None:
    stock, computed = shelf.stock(name)
    journal = shelf.journal(name)
    assert journal.clip is not None
    assert journal.clip.digest == stock.digest
    assert (stock.sound is not None) == tiny.FAMILIES[name].audio
    assert journal.forwards == computed
    assert journal.total == STEPS * tiny.FAMILIES[name].segments


@pytest.mark.parametrize(("name", "cut"), CASES)
def test_a_resumed_run_ends_as_the_whole_one_and_computes_only_what_was_left(shelf: Shelf, name: str, cut: int) -> None:
    stock, computed = shelf.stock(name)
    clip, under, forwards = shelf.resume(name, shelf.journal(name).snapshot(cut))
    total = STEPS * tiny.FAMILIES[name].segments
    assert clip.digest == stock.digest
    assert under.steps == total
    assert forwards == under.forwards == computed * (total - cut) // total
    assert under.replayed == computed - forwards


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
