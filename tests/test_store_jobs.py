"""Reading jobs: pages that neither skip nor repeat, filters, why a job waits, how many are ahead, and its events."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import jobmaker as make
import pytest

from framewright import lifecycle, store
from framewright.database import Database
from framewright.errors import BadRequest
from framewright.jobs import Outcome, Status


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    database = make.fresh(database_url)
    yield database
    database.close()


def listed(db: Database, **filters: Any) -> list[uuid.UUID]:
    return [job.id for job in store.list_jobs(db, "t1", **filters)[0]]


# --- pages


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_pages_cover_everything_once_in_order(db: Database, order: Literal["asc", "desc"], size: int) -> None:
    made = [make.submit(db).job.id for _ in range(7)]
    make.submit(db, tenant="t2")
    wanted = made if order == "asc" else made[::-1]
    seen: list[uuid.UUID] = []
    more = True
    while more:
        page, more = store.list_jobs(db, "t1", after=seen[-1] if seen else None, limit=size, order=order)
        seen += [job.id for job in page]
    assert seen == wanted
    page, more = store.list_jobs(db, "t1", before=wanted[5], limit=2, order=order)
    assert ([job.id for job in page], more) == (wanted[3:5], True)
    page, more = store.list_jobs(db, "t1", before=wanted[2], limit=2, order=order)
    assert ([job.id for job in page], more) == (wanted[:2], False)
    assert listed(db, after=wanted[1], before=wanted[4], order=order) == wanted[2:4]


def test_a_cursor_of_nobody_or_of_another_tenant_is_a_bad_request(db: Database) -> None:
    foreign = make.submit(db, tenant="t2").job.id
    for cursor in (uuid.uuid4(), foreign):
        with pytest.raises(BadRequest):
            store.list_jobs(db, "t1", after=cursor)
        with pytest.raises(BadRequest):
            store.list_jobs(db, "t1", before=cursor)


def test_filters(db: Database) -> None:
    one = make.submit(db, metadata={"batch": "1", "who": "a"}).job
    two = make.submit(db, make.diamond(), metadata={"batch": "2", "who": "a"}).job
    assert listed(db, kind="pipeline") == [two.id]
    assert listed(db, kind="animate") == [one.id]
    assert listed(db, model="scripted") == [two.id, one.id]
    assert listed(db, model="other") == []
    assert listed(db, metadata={"batch": "1"}) == [one.id]
    assert listed(db, metadata={"batch": "1", "who": "b"}) == []
    assert listed(db, metadata={"who": "a"}) == [two.id, one.id]
    assert listed(db, created_after=two.created_at) == [two.id]
    assert listed(db, created_before=two.created_at) == [one.id]


def test_every_status_is_found_and_said_alike(db: Database) -> None:
    store.upsert_worker(db, make.presence())
    later = datetime.now(UTC) + timedelta(hours=1)
    ids = {
        Status.RUNNING: make.submit(db, priority=9).job.id,
        Status.SUCCEEDED: make.submit(db, priority=8).job.id,
        Status.FAILED: make.submit(db, priority=7).job.id,
        Status.CANCELED: make.submit(db).job.id,
        Status.SCHEDULED: make.submit(db, run_at=later).job.id,
        Status.WAITING: make.submit(db, make.plan(make.step(queue="elsewhere"))).job.id,
        Status.QUEUED: make.submit(db).job.id,
    }
    assert set(ids) == set(Status)
    running, succeeded, failed = (make.claimed(db) for _ in range(3))
    assert running.job_id == ids[Status.RUNNING]
    make.complete(db, succeeded)
    lifecycle.release(db, failed, Outcome.BAD_INPUT, message="no")
    lifecycle.cancel(db, "t1", ids[Status.CANCELED], "no")
    for status, id_ in ids.items():
        assert listed(db, status=status) == [id_], status
        assert store.get_job(db, "t1", id_).status is status
    assert {job.id: job.status for job in store.list_jobs(db, "t1")[0]} == {id_: status for status, id_ in ids.items()}


def test_a_deleted_job_is_in_no_list(db: Database) -> None:
    gone, kept = make.submit(db).job.id, make.submit(db).job.id
    lifecycle.delete(db, "t1", gone)
    assert listed(db) == [kept]
    assert [job.id for job in store.get_jobs(db, "t1", [gone, kept, uuid.uuid4()])] == [kept]
    assert store.get_jobs(db, "t2", [kept]) == []


# --- why it waits


def reason(db: Database, job_id: uuid.UUID) -> str | None:
    job = store.get_job(db, "t1", job_id)
    assert (job.blocked_reason is None) == (job.blocked is None)
    return job.blocked.code if job.blocked else None


def test_a_job_says_why_nobody_works_on_it(db: Database) -> None:
    made = make.submit(db).job
    assert (made.blocked.code if made.blocked else None) == reason(db, made.id) == "no_worker"
    assert made.blocked_reason == "No worker serves queue cpu."
    store.upsert_worker(db, make.presence("other", engines=("other",)))
    assert reason(db, made.id) == "no_capability"
    assert "engine scripted" in (store.get_job(db, "t1", made.id).blocked_reason or "")
    store.upsert_worker(db, make.presence(ttl_s=0.0))
    assert reason(db, made.id) == "workers_offline"
    store.upsert_worker(db, make.presence())
    assert reason(db, made.id) is None
    assert make.submit(db).job.blocked is None
    store.set_worker_control(db, "w1", "pause")
    assert reason(db, made.id) == "workers_offline"
    store.set_worker_control(db, "w1", "run")
    store.upsert_worker(db, make.presence(state="draining"))
    assert reason(db, made.id) == "workers_offline"


def test_a_running_job_is_not_blocked_but_its_next_step_may_be(db: Database) -> None:
    store.upsert_worker(db, make.presence(queues=("cpu",)))
    job_id = make.submit(db, make.plan(make.step("a"), make.step("b", needs=["a"], queue="gpu"))).job.id
    held = make.claimed(db)
    assert reason(db, job_id) is None
    make.complete(db, held)
    assert reason(db, job_id) == "no_worker"
    assert store.get_job(db, "t1", job_id).status is Status.RUNNING


def test_a_job_between_two_attempts_says_when_it_goes_on(db: Database) -> None:
    store.upsert_worker(db, make.presence())
    job_id = make.submit(db).job.id
    lifecycle.release(db, make.claimed(db), Outcome.HOST_OOM, message="no memory")
    job = store.get_job(db, "t1", job_id)
    assert reason(db, job_id) == "retry_backoff"
    assert "after host_oom" in (job.blocked_reason or "")
    assert (job.queue_position, job.steps[0].message) == (None, "no memory")


def test_the_queue_position_counts_who_is_ahead_in_the_same_queue(db: Database) -> None:
    ids = [make.submit(db, priority=priority).job.id for priority in (0, 5, 0, 5)]
    make.submit(db, make.plan(make.step(queue="gpu")), priority=9)
    make.submit(db, priority=9, run_at=datetime.now(UTC) + timedelta(hours=1))
    assert [store.get_job(db, "t1", id_).queue_position for id_ in ids] == [3, 1, 4, 2]
    make.claimed(db, queues=["cpu"])
    assert [store.get_job(db, "t1", id_).queue_position for id_ in ids] == [2, None, 3, 1]


# --- events


def test_events_of_many_jobs_come_in_one_answer(db: Database) -> None:
    ids = [make.submit(db).job.id for _ in range(3)]
    make.complete(db, make.claimed(db))
    found = store.events_after(db, {ids[0]: 2, ids[1]: 0, ids[2]: 1})
    assert [(event.job_id, event.seq, event.type) for event in found] == [
        (ids[0], 3, "step_succeeded"),
        (ids[0], 4, "succeeded"),
        (ids[1], 1, "queued"),
    ]
    assert store.events_after(db, {ids[0]: 0}, limit=2)[-1].seq == 2
    assert store.events_after(db, {}) == []


def test_events_of_a_tenant_since_a_time(db: Database) -> None:
    first = make.submit(db).job
    make.submit(db, tenant="t2")
    second = make.submit(db).job
    found = store.events_since(db, "t1", first.created_at)
    assert [event.job_id for event in found] == [first.id, second.id]
    assert [event.job_id for event in store.events_since(db, "t1", second.created_at)] == [second.id]
    assert len(store.events_since(db, "t1", first.created_at, limit=1)) == 1


def test_the_events_say_what_happened(db: Database) -> None:
    job_id = make.submit(db).job.id
    lifecycle.release(db, make.claimed(db, "w7"), Outcome.RUNNER_LOST, message="the runner died")
    again = make.claimed(db)
    assert lifecycle.resumed(db, again, 3, exact=True)
    make.complete(db, again)
    told = {event.seq: dict(event.data) for event in store.events_after(db, {job_id: 0})}
    step = store.get_job(db, "t1", job_id).steps[0].id
    assert told[1] == {"kind": "animate", "model": "scripted", "steps": 1}
    assert told[2] == {"step": step, "name": "clip", "attempt": 1, "worker": "w7"}
    assert told[3] == {
        "step": step, "name": "clip", "attempt": 1, "outcome": "runner_lost", "message": "the runner died",
        "final": False, "retry_in_s": 0.0, "resumed_from_step": None,
    }  # fmt: skip
    (output,) = store.get_job(db, "t1", job_id).outputs
    assert told[5]["resumed_from_step"] == 3
    assert told[5]["artifacts"] == [
        {"id": f"asset_{output.id.hex}", "name": "out.mp4", "content_type": "video/mp4", "size": 1000}
    ]
    assert told[6] == {"outputs": [f"asset_{output.id.hex}"]}


# --- the rest


def test_attempts_are_told_in_order(db: Database) -> None:
    job_id = make.submit(db).job.id
    lifecycle.release(db, make.claimed(db, "w1"), Outcome.APP_ERROR, message="bug")
    make.run(db, "UPDATE steps SET run_at = '-infinity'")
    make.claimed(db, "w2")
    first, second = store.attempts(db, "t1", job_id)
    assert (first.n, first.worker, first.outcome, first.message) == (1, "w1", Outcome.APP_ERROR, "bug")
    assert (second.n, second.worker, second.outcome, second.ended_at) == (2, "w2", None, None)


def test_an_attempt_says_once_from_which_step_it_goes_on_and_only_while_it_lasts(db: Database) -> None:
    job_id = make.submit(db).job.id
    first = make.claimed(db)
    assert lifecycle.resumed(db, first, 4, exact=False)
    assert not lifecycle.resumed(db, first, 9, exact=True)
    lifecycle.release(db, first, Outcome.YIELDED, message="drain")
    assert not lifecycle.resumed(db, first, 9, exact=True)
    second = make.claimed(db)
    lifecycle.release(db, second, Outcome.YIELDED, message="drain")
    assert not lifecycle.resumed(db, second, 0, exact=True)
    told = [(attempt.resumed_from_step, attempt.exact) for attempt in store.attempts(db, "t1", job_id)]
    assert told == [(4, False), (None, None)]


def test_paces_are_those_of_whole_runs_the_latest_first(db: Database) -> None:
    def ran(worker: str, whole_s: float, **meta: float) -> None:
        make.submit(db)
        held = make.claimed(db, worker)
        make.complete(db, held)
        params = json.dumps({"steps": 10, "prompt": "a fox"})
        for statement, value in (
            ("UPDATE steps SET work = 200, params = params || %s::jsonb WHERE id = %s", params),
            ("UPDATE attempts SET started_at = ended_at - make_interval(secs => %s) WHERE step_id = %s", whole_s),
            ("UPDATE artifacts SET meta = meta || %s::jsonb WHERE step_id = %s", json.dumps(meta)),
        ):
            make.run(db, statement, (value, held.step_id))

    ran("w1", 99)  # what has no pace says nothing
    ran("w1", 12, step_s=1.0, resumed_from_step=5)  # and neither does half a run
    assert store.paces(db, "animate", "scripted") == []
    ran("w1", 12, step_s=1.0)
    ran("w2", 22, step_s=2.0)
    latest, first = store.paces(db, "animate", "scripted")
    assert (latest.worker, latest.whole_s, latest.step_s) == ("w2", pytest.approx(22), 2.0)
    assert (first.worker, first.whole_s, first.step_s) == ("w1", pytest.approx(12), 1.0)
    assert (first.work, first.params["steps"]) == (200, 10)
    assert "prompt" not in first.params
    assert store.paces(db, "animate", "other") == []


def test_durations_are_those_of_the_last_successes(db: Database) -> None:
    assert store.durations(db, "animate", "scripted") == (0, 0.0, 0.0)
    for seconds in (1, 2, 3):
        make.submit(db)
        held = make.claimed(db)
        make.complete(db, held)
        make.run(
            db,
            "UPDATE steps SET started_at = finished_at - make_interval(secs => %s) WHERE id = %s",
            (seconds, held.step_id),
        )
    n, p50_s, p90_s = store.durations(db, "animate", "scripted")
    assert (n, p50_s) == (3, 2.0)
    assert p90_s == pytest.approx(2.8)


def test_an_idempotency_record_can_be_looked_up_before_planning(db: Database) -> None:
    record = lifecycle.Idempotency("POST /jobs", b"k" * 32, b"b" * 32, 24)
    job_id = make.submit(db, idempotency=record).job.id
    assert store.find_idempotent(db, "t1", "POST /jobs", b"k" * 32) == (b"b" * 32, job_id)
    assert store.find_idempotent(db, "t2", "POST /jobs", b"k" * 32) is None
    assert store.find_idempotent(db, "t1", "POST /other", b"k" * 32) is None
    make.run(db, "UPDATE idempotency SET expires_at = clock_timestamp()")
    assert store.find_idempotent(db, "t1", "POST /jobs", b"k" * 32) is None


def test_the_number_of_open_jobs_follows_them(db: Database) -> None:
    ids = [make.submit(db).job.id for _ in range(3)] + [make.submit(db, tenant="t2").job.id]
    assert store.open_jobs(db) == 4
    lifecycle.cancel(db, "t1", ids[0], "")
    make.complete(db, make.claimed(db))
    assert store.open_jobs(db) == 2
