"""A worker publishes what is signed, or nothing; and goes on renewing, listening and stopping while it signs."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from typing import Any

import psutil
import pytest
from desk import Desk, picture
from waiting import until

from framewright.jobs import JobState
from framewright.provenance import signing
from framewright.provenance.anchors import anchors
from framewright.provenance.verifying import verify
from workers.supervisor import Supervisor


def test_every_file_that_is_published_is_signed_last_and_says_which_job_made_it(desk, worker, quick, tmp_path):
    name, facts = desk.uploaded(picture())
    job_id = desk.animate(name, facts)
    job = desk.succeeded(job_id)  # sizes and sums of the rows are those of the stored files
    assert {output.name for output in job.outputs} == {"video", "poster", "thumbnail", "sprite", "playback"}
    for output in job.outputs:
        said = verify(desk.fetched(output, tmp_path), anchors(quick))
        assert (said["valid"], said["trusted"], said["job"]) == (True, "development", f"job_{job_id.hex}")
        assert [one["title"] for one in said["ingredients"]] == [name]
        assert said["digital_source_type"] == "algorithmicallyEnhanced"


def test_a_step_of_a_pipeline_carries_on_what_the_one_before_it_said(desk, worker, quick, tmp_path):
    steps = [
        {"name": "first", "kind": "animate", "model": "scripted", "params": {"frames": 4, "size": "192x152"}},
        {
            "name": "second",
            "kind": "animate",
            "model": "scripted",
            "input": {"video": "@first"},
            "params": {"frames": 4, "size": "192x152"},
        },
    ]
    job = desk.succeeded(desk.submit(kind="pipeline", steps=steps))
    last = next(output for output in job.outputs if output.name == "video")
    said = verify(desk.fetched(last, tmp_path), anchors(quick))
    assert [one["action"] for one in said["actions"]] == ["c2pa.opened", "c2pa.edited"]
    assert [(one["signed"], one["valid"]) for one in said["ingredients"]] == [(True, True)]
    assert said["ingredients"][0]["digital_source_type"] == "algorithmicMedia"


def test_what_cannot_be_signed_is_not_published_and_is_tried_again(desk, worker, monkeypatch):
    order = signing._order
    failing = threading.Event()
    failing.set()

    def narrow(*args: Any) -> dict[str, Any]:
        return {**order(*args), **({"algorithm": "ES512"} if failing.is_set() else {})}

    monkeypatch.setattr(signing, "_order", narrow)
    job_id = desk.submit()
    until(lambda: desk.outcomes(job_id))
    ended = next(event for event in desk.events(job_id) if event.type == "attempt_ended")
    assert ended.data["outcome"] == "transient_infra"
    assert "could not be signed" in ended.data["message"]
    assert desk.job(job_id).outputs == ()
    assert list(desk.storage.list_prefix(f"t/default/j/{job_id.hex}/")) == []
    failing.clear()
    desk.succeeded(job_id)


class Held:
    """A signer that is stopped at its first breath, so that a test has all the time it needs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pids: list[int] = []
        spawn = subprocess.Popen

        def stopped(*args: Any, **more: Any) -> Any:
            process = spawn(*args, **more)
            os.kill(process.pid, signal.SIGSTOP)
            self.pids.append(process.pid)
            return process

        monkeypatch.setattr(signing.subprocess, "Popen", stopped)


@pytest.fixture
def held(worker: Supervisor, monkeypatch: pytest.MonkeyPatch) -> Held:
    monkeypatch.setattr(signing, "subprocess", _Subprocess())
    return Held(monkeypatch)


class _Subprocess:
    """`subprocess` for the module under test alone, so that no other child is stopped."""

    PIPE, DEVNULL, Popen = subprocess.PIPE, subprocess.DEVNULL, staticmethod(subprocess.Popen)


def test_progress_says_that_it_signs(desk, worker, held):
    job_id = desk.submit()
    until(lambda: held.pids)
    # Of reports close together only the newest is sent, and a signature takes a moment; this one takes longer.
    until(lambda: any(entry.data.get("phase") == "signing" for entry in desk.live(job_id)))
    os.kill(held.pids[0], signal.SIGCONT)
    desk.succeeded(job_id)


def test_the_lease_is_renewed_while_a_signature_takes_long(desk, worker, quick, held):
    job_id = desk.submit()
    until(lambda: held.pids)
    begun = lease_until(desk, job_id)
    until(lambda: lease_until(desk, job_id) > begun)
    os.kill(held.pids[0], signal.SIGCONT)
    desk.succeeded(job_id)
    assert desk.outcomes(job_id) == []


def test_a_cancel_while_it_signs_ends_the_signer_and_publishes_nothing(desk, worker, held):
    from framewright import lifecycle

    job_id = desk.submit()
    until(lambda: held.pids)
    lifecycle.cancel(desk.db, "default", job_id, "enough")
    until(lambda: not psutil.pid_exists(held.pids[0]))
    assert desk.job(job_id).state is JobState.CANCELED
    until(lambda: not worker.busy)
    assert list(desk.storage.list_prefix(f"t/default/j/{job_id.hex}/")) == []


def test_a_signer_that_dies_costs_a_retry(desk, worker, held, monkeypatch):
    job_id = desk.submit()
    until(lambda: held.pids)
    monkeypatch.undo()
    os.kill(held.pids[0], signal.SIGKILL)
    job = desk.succeeded(job_id)
    assert desk.outcomes(job_id) == ["transient_infra"]
    assert job.outputs


def lease_until(desk: Desk, job_id: Any) -> Any:
    with desk.db.connect() as connection:
        row = connection.execute("SELECT lease_until FROM steps WHERE job_id = %s", (job_id,)).fetchone()
    assert row is not None
    return row[0]
