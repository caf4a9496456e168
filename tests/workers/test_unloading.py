"""One model, one runner: who takes the order for another one, and what a worker does that has nothing to do."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import psutil
from desk import TENANT, supervised
from waiting import until

from framewright import ids, store
from framewright.jobs import Claim, Outcome
from workers.verdict import Verdict

WAN, MOCHI = "wan-2.1-t2v-1.3b", "mochi-1"


def order(model: str | None, *, frames: int = 81, step: int = 1) -> Claim:
    """A step of that model, or one that needs no weights."""
    engine = f"diffusion:{model}" if model else "camera-move"
    return Claim(
        *(ids.uuid7(), step, TENANT, uuid4(), 1, "main", "generate", engine, model or engine, "gpu"),
        *({"size": "832x480", "frames": frames}, {}, 60.0, 60.0, None, datetime.now(UTC)),
    )


def paused(desk, worker):
    """Pauses a worker whose runner is warm, so that nothing else gives orders to it."""
    desk.succeeded(desk.submit())
    store.set_worker_control(desk.db, worker.name, "pause")
    until(lambda: worker.control == "pause", 20)


def shown(desk, worker):
    """The state of the worker and what it has in memory, as everybody is told."""
    row = next(row for row in store.list_workers(desk.db) if row.id == worker.name)
    return row.state, row.capabilities["models"]["resident"]


def test_an_order_for_another_model_goes_to_a_new_runner_and_the_old_one_is_gone_by_then(desk, own_worker):
    paused(desk, own_worker)
    first = own_worker._runner_for(order(None))
    assert own_worker._runner_for(order(WAN)) is first
    until(lambda: shown(desk, own_worker) == ("idle", [WAN]))
    # Its own model again, and what needs no weights, leave it where it is.
    assert own_worker._runner_for(order(WAN)) is own_worker._runner_for(order(None)) is first
    second = own_worker._runner_for(order(MOCHI))
    assert first.gone.is_set()
    assert not psutil.pid_exists(first.pid)
    assert (own_worker.runner_pid, second.holds) == (second.pid, MOCHI)
    until(lambda: shown(desk, own_worker) == ("idle", [MOCHI]))


def test_a_clip_is_made_in_its_own_profile_whatever_was_made_before(desk, own_worker):
    paused(desk, own_worker)
    own_worker._capabilities["vram_mb"] = 20_000
    first = own_worker._runner_for(order(WAN))
    assert (first.holds, first.profile) == (WAN, "whole")
    assert own_worker._runner_for(order(WAN, step=2)) is first
    own_worker._learn_from_memory(order(WAN, step=2), Verdict(Outcome.GPU_OOM, "too much"))
    again = own_worker._runner_for(order(WAN, step=2))
    assert (again.holds, again.profile, first.gone.is_set()) == (WAN, "parts", True)
    # Another step has not run out of anything.
    assert own_worker._runner_for(order(WAN, step=3)).profile == "whole"


def test_a_paused_worker_gives_its_memory_back_and_starts_a_runner_when_it_may_go_on(desk, quick):
    with supervised(quick.model_copy(update={"unload_s": 0.5})) as worker:
        paused(desk, worker)
        held = worker._runner_for(order(WAN))
        until(lambda: worker.runner_pid is None)
        assert not psutil.pid_exists(held.pid)
        until(lambda: shown(desk, worker) == ("idle", []))
        job_id = desk.submit()
        store.set_worker_control(desk.db, worker.name, "run")
        desk.succeeded(job_id)
        assert worker.runner_pid not in (None, held.pid)
