"""A worker that is not told in time can do nothing with a step that is no longer its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from desk import TENANT, supervised
from waiting import until

from framewright import lifecycle
from framewright.events import Live
from framewright.jobs import Outcome
from workers.janitor import Janitor

pytestmark = pytest.mark.fault


def shown(desk, job_id, step: int) -> None:
    """Returns once the worker, which renews too rarely to say so in the row, has published that step."""
    until(lambda: any((entry.data.get("step") or 0) >= step for entry in desk.live(job_id)))


def test_a_commit_that_comes_late_is_refused_and_its_files_are_the_janitors(desk, quick, tmp_path):
    with supervised(quick.model_copy(update={"renew_s": 3600.0, "lease_s": 7200.0})):
        job_id = desk.submit(steps=15, step_ms=100)
        shown(desk, job_id, 2)
        late = desk.lease(job_id)
        lifecycle.release(desk.db, late, Outcome.WORKER_LOST, message="as the reaper does")
        job = desk.succeeded(job_id)
    assert [attempt.outcome for attempt in job.attempts] == ["worker_lost", "succeeded"]
    assert {stamp.attempt for stamp in desk.scripts(job.outputs[0].key, tmp_path)} == {2}
    prefix = desk.storage.output_prefix(TENANT, job_id, late.step_name, late.fence)
    left = [listed.key for listed in desk.storage.list_prefix(prefix)]
    assert left, "the late worker uploads before it learns; nothing but the janitor may remove that"
    with desk.db.connect() as connection:
        connection.execute("UPDATE attempts SET sweep_at = clock_timestamp() WHERE fence = %s", (late.fence,))
    Janitor(quick, desk.db, desk.storage).sweep_attempts()
    assert [listed.key for listed in desk.storage.list_prefix(prefix)] == []
    desk.succeeded(job_id)


def test_a_hint_makes_a_worker_hear_of_a_cancel_long_before_it_would_renew(desk, quick):
    with supervised(quick.model_copy(update={"renew_s": 3600.0, "lease_s": 7200.0})) as worker:
        job_id = desk.submit(steps=6000, step_ms=100)
        shown(desk, job_id, 2)
        lifecycle.cancel(desk.db, TENANT, job_id, "changed my mind")
        live = Live(quick)
        until(lambda: live.hint(job_id) or not worker.busy)
        live.close()
        assert desk.types(job_id)[-1] == "canceled"


def test_a_hint_alone_stops_nothing(desk, quick):
    with supervised(quick) as worker:
        job_id = desk.submit(steps=15, step_ms=100)
        shown(desk, job_id, 2)
        live = Live(quick)
        until(lambda: live.hint(job_id) or not worker.busy)
        live.close()
        assert [attempt.n for attempt in desk.succeeded(job_id).attempts] == [1]


def test_what_is_heavy_is_loaded_by_the_runner_alone():
    loaded = "import sys, workers.start, workers.reconciler; print(*set(sys.modules) & set(sys.argv[1:]))"
    heavy = ["numpy", "PIL", "av", "torch", "api"]
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", loaded, *heavy], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
