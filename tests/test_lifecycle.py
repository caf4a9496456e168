"""The promises of a job's life: one visible outcome, exact events, leases that cannot be stolen or faked."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import jobmaker as make
import pytest
from docs_tables import DOCS

from framewright import ids, lifecycle, store
from framewright.database import Database
from framewright.errors import AssetUnusable, Conflict, IdempotencyKeyReuse, InvalidParams, NotFound, TooManyRequests
from framewright.jobs import RETRIES, UNFIT, JobState, Outcome, Progress, Status, StepState
from framewright.lifecycle import Idempotency

SOON = timedelta(hours=1)


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    database = make.fresh(database_url)
    yield database
    database.close()


def key(name: str = "k", body: str = "b") -> Idempotency:
    digest = [hashlib.sha256(text.encode()).digest() for text in (name, body)]
    return Idempotency("POST /jobs", digest[0], digest[1], ttl_h=24)


# --- submit


def test_a_submitted_job_reads_back_as_it_was_answered(db: Database) -> None:
    store.upsert_worker(db, make.presence())
    made = make.submit(db, make.diamond(), priority=5, metadata={"a": "b"}, webhook="https://example.org/hook")
    read = store.get_job(db, "t1", made.job.id)
    assert made.queues == ("gpu",)
    assert (read.status, read.queue_position, made.job.queue_position) == (Status.QUEUED, 1, None)
    for name in read.__dataclass_fields__:
        if name != "queue_position":
            assert getattr(read, name) == getattr(made.job, name), name
    assert make.events(db, made.job.id) == ["queued"]


def test_fifty_parallel_submits_with_one_key_make_one_job(db: Database) -> None:
    at_once = Barrier(50)

    def once(_: int) -> lifecycle.Submitted:
        at_once.wait(30)
        return make.submit(db, idempotency=key())

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(once, range(50)))
    assert len({answer.job.id for answer in answers}) == 1
    assert [answer.replayed for answer in answers].count(False) == 1
    assert make.rows(db, "SELECT count(*) FROM jobs") == [(1,)]


def test_a_key_with_another_body_is_refused_and_makes_nothing(db: Database) -> None:
    make.submit(db, idempotency=key())
    with pytest.raises(IdempotencyKeyReuse):
        make.submit(db, idempotency=key(body="other"))
    assert make.rows(db, "SELECT count(*) FROM jobs") == [(1,)]


def test_a_key_belongs_to_one_tenant_and_one_route_and_ends_with_its_time(db: Database) -> None:
    first = make.submit(db, idempotency=key()).job.id
    assert make.submit(db, tenant="t2", idempotency=key()).job.id != first
    elsewhere = Idempotency("POST /jobs/x/retry", key().key_sha256, key().body_sha256, 24)
    assert not make.submit(db, idempotency=elsewhere).replayed
    make.run(db, "UPDATE idempotency SET expires_at = clock_timestamp()")
    assert not make.submit(db, idempotency=key(body="other")).replayed


def test_of_fifty_parallel_submits_with_quota_ten_exactly_ten_are_accepted(db: Database) -> None:
    at_once = Barrier(50)

    def once(_: int) -> str:
        at_once.wait(30)
        try:
            make.submit(db, max_queued_per_tenant=10)
        except TooManyRequests as error:
            return f"refused for {error.retry_after_s} s"
        return "accepted"

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(once, range(50)))
    assert (answers.count("accepted"), answers.count("refused for 10 s")) == (10, 40)
    assert store.open_jobs(db) == 10


def test_a_quota_counts_open_jobs_of_one_tenant_only(db: Database) -> None:
    first = make.submit(db, max_queued_per_tenant=1).job.id
    with pytest.raises(TooManyRequests):
        make.submit(db, max_queued_per_tenant=1)
    make.submit(db, tenant="t2", max_queued_per_tenant=1)
    lifecycle.cancel(db, "t1", first, "room")
    make.submit(db, max_queued_per_tenant=1)


def test_a_tenants_own_quota_is_the_lower_one(db: Database) -> None:
    make.run(db, "UPDATE tenants SET max_open = 0 WHERE id = 't1'")
    with pytest.raises(TooManyRequests):
        make.submit(db)


def test_the_cap_of_all_tenants_holds_and_a_refusal_keeps_no_idempotency_record(db: Database) -> None:
    make.submit(db, tenant="t2", max_queued=1)
    with pytest.raises(TooManyRequests):
        make.submit(db, max_queued=1, idempotency=key())
    assert not make.submit(db, max_queued=2, idempotency=key()).replayed


def test_a_replay_answers_even_when_the_queue_is_full(db: Database) -> None:
    first = make.submit(db, max_queued_per_tenant=1, idempotency=key())
    again = make.submit(db, max_queued_per_tenant=1, idempotency=key())
    assert (again.job.id, again.replayed, again.queues) == (first.job.id, True, ())


def test_an_unknown_tenant_cannot_submit(db: Database) -> None:
    with pytest.raises(NotFound):
        make.submit(db, tenant="nobody")


# --- claim


def test_claims_go_by_priority_then_age(db: Database) -> None:
    old, high, new = (make.submit(db, priority=priority).job.id for priority in (0, 7, 0))
    assert [make.claimed(db).job_id for _ in range(3)] == [high, old, new]
    assert make.claim(db) is None


def test_one_claim_spans_the_queues_of_a_worker_in_one_order(db: Database) -> None:
    make.submit(db, make.plan(make.step(queue="cpu")))
    urgent = make.submit(db, make.plan(make.step(queue="gpu")), priority=9).job.id
    assert make.claimed(db, queues=["cpu", "gpu"]).job_id == urgent


@pytest.mark.parametrize(
    ("queues", "engines"), [(["gpu"], ["scripted"]), (["cpu"], ["other"]), ([], ["scripted"]), (["cpu"], [])]
)
def test_a_worker_gets_only_what_its_queues_and_engines_fit(
    db: Database, queues: list[str], engines: list[str]
) -> None:
    make.submit(db)
    assert lifecycle.claim(db, "w1", queues, engines, lease_s=30) is None
    assert make.claim(db) is not None


@pytest.mark.parametrize("control", ["pause", "drain"])
def test_a_worker_asked_to_stop_claims_nothing_until_it_may_go_on(db: Database, control: Any) -> None:
    make.submit(db)
    store.upsert_worker(db, make.presence())
    store.set_worker_control(db, "w1", control)
    assert make.claim(db) is None
    store.set_worker_control(db, "w1", "run")
    assert make.claim(db) is not None


def test_a_draining_worker_claims_nothing(db: Database) -> None:
    make.submit(db)
    store.upsert_worker(db, make.presence(state="draining"))
    assert make.claim(db) is None


def test_two_workers_never_hold_the_same_step(db: Database) -> None:
    for _ in range(40):
        make.submit(db)
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda at: make.claim(db, f"w{at}"), range(80)))
    held = [claim.step_id for claim in claims if claim]
    # A claim passes over rows that are locked this instant, so late ones may come away empty: take the rest now.
    while claim := make.claim(db):
        held.append(claim.step_id)
    assert len(held) == len(set(held)) == 40


def test_a_scheduled_job_waits_for_its_time(db: Database) -> None:
    made = make.submit(db, run_at=datetime.now(UTC) + SOON)
    assert (made.job.status, made.queues) == (Status.SCHEDULED, ())
    assert store.get_job(db, "t1", made.job.id).status is Status.SCHEDULED
    assert make.claim(db) is None
    assert store.due_doorbells(db, every_s=15) == {}
    lifecycle.patch(db, "t1", made.job.id, run_at=None)
    assert make.claimed(db).job_id == made.job.id


def test_a_long_row_of_jobs_that_can_no_longer_start_hides_nobody_behind_it(db: Database) -> None:
    for _ in range(40):
        make.submit(db, start_deadline=datetime.now(UTC) - SOON, priority=9)
    behind = make.submit(db).job.id
    assert make.claimed(db).job_id == behind
    assert make.claim(db) is None


def test_a_step_is_handed_the_committed_files_of_the_steps_it_names(db: Database) -> None:
    own = {"asset": make.asset(db).id.hex, "key": "x"}
    inputs = {"video": {"step": "a"}, "images": [{"step": "b"}, own], "n": 3}
    planned = make.plan(make.step("a"), make.step("b"), make.step("c", needs=["a", "b"], inputs=inputs))
    job_id = make.submit(db, planned).job.id
    files = {}
    for _ in range(2):
        held = make.claimed(db)
        files[held.step_name] = make.artifact(held)
        lifecycle.complete(db, held, [files[held.step_name], make.artifact(held, "second.mp4")])
    held = make.claimed(db)
    assert (held.job_id, held.step_name) == (job_id, "c")
    assert held.inputs["video"]["key"] == files["a"].key
    assert held.inputs["images"][0]["key"] == files["b"].key
    assert held.inputs["images"][0]["sha256"] == files["b"].sha256.hex()
    assert held.inputs["images"][1] == own
    assert held.inputs["n"] == 3
    produced = store.get_asset(db, "t1", uuid.UUID(held.inputs["video"]["asset"]))
    assert (produced.key, produced.origin) == (files["a"].key, "output")


def test_a_claim_says_everything_a_worker_needs(db: Database) -> None:
    made = make.submit(db, make.plan(make.step(timeout_s=7.0, stall_s=3.0)))
    held = make.claimed(db)
    assert (held.job_id, held.tenant_id, held.attempt, held.kind) == (made.job.id, "t1", 1, "animate")
    assert (held.timeout_s, held.stall_s, held.params) == (7.0, 3.0, {"frames": 8})
    assert (held.checkpoint, held.created_at) == (None, made.job.created_at)
    job = store.get_job(db, "t1", made.job.id)
    assert (job.state, job.attempt, job.steps[0].worker) == (JobState.RUNNING, 1, "w1")


# --- renew


def test_renewing_keeps_the_lease_and_stores_progress_that_never_falls(db: Database) -> None:
    job_id = make.submit(db).job.id
    held = make.claimed(db)
    before = make.rows(db, "SELECT lease_until, progress_until FROM steps")[0]
    assert lifecycle.renew(db, held, lease_s=60, progressed=False) == "ok"
    lease, progress = make.rows(db, "SELECT lease_until, progress_until FROM steps")[0]
    assert (lease > before[0], progress == before[1]) == (True, True)
    lifecycle.renew(db, held, lease_s=60, progressed=True, progress=Progress(0.6, "rendering", step=3, steps=5))
    assert make.rows(db, "SELECT progress_until FROM steps")[0][0] > progress
    lifecycle.renew(db, held, lease_s=60, progressed=True, progress=Progress(0.1, "encoding"))
    job = store.get_job(db, "t1", job_id)
    assert (job.progress["fraction"], job.phase) == (0.6, "encoding")


def test_a_lost_lease_is_told_at_the_next_renewal(db: Database) -> None:
    job_id = make.submit(db).job.id
    held = make.claimed(db)
    lifecycle.cancel(db, "t1", job_id, "asked")
    assert lifecycle.renew(db, held, lease_s=30, progressed=True) == "lost"


def test_an_expired_lease_that_nobody_took_may_go_on_and_commit(db: Database) -> None:
    make.submit(db)
    held = make.claimed(db)
    make.run(db, "UPDATE steps SET lease_until = clock_timestamp() - interval '1 hour'")
    assert lifecycle.renew(db, held, lease_s=30, progressed=True) == "ok"
    make.run(db, "UPDATE steps SET lease_until = clock_timestamp() - interval '1 hour'")
    assert make.complete(db, held).answer == "ok"


def test_a_worker_asked_to_drain_hears_it_at_the_next_renewal(db: Database) -> None:
    store.upsert_worker(db, make.presence())
    make.submit(db)
    held = make.claimed(db)
    store.set_worker_control(db, "w1", "pause")
    assert lifecycle.renew(db, held, lease_s=30, progressed=True) == "ok"
    store.set_worker_control(db, "w1", "drain")
    assert lifecycle.renew(db, held, lease_s=30, progressed=True) == "yield"


# --- complete


def test_a_one_step_job_has_four_events_and_one_output(db: Database) -> None:
    job_id = make.submit(db, webhook="https://example.org/hook").job.id
    held = make.claimed(db)
    file = make.artifact(held, width=64, height=48, frames=10, fps="24000/1001", duration_s=0.4, codecs="hvc1")
    done = lifecycle.complete(db, held, [file])
    assert (done.answer, done.job_state, done.queues, done.seq) == ("ok", JobState.SUCCEEDED, (), 4)
    assert make.events(db, job_id) == ["queued", "step_started", "step_succeeded", "succeeded"]
    job = store.get_job(db, "t1", job_id)
    (output,) = job.outputs
    assert (output.key, output.size, output.sha256, output.fps) == (file.key, file.size, file.sha256, "24000/1001")
    assert (output.state, output.width, output.codecs) == ("ready", 64, "hvc1")
    assert job.expires_at == output.expires_at == job.finished_at + timedelta(hours=24 * 30)  # type: ignore[operator]
    assert job.progress["fraction"] == 1.0
    asset = store.get_asset(db, "t1", output.id)
    assert (asset.origin, asset.kind, asset.key, asset.job_id) == ("output", "video", file.key, job_id)
    assert make.rows(db, "SELECT type, url, job_id FROM webhook_outbox") == [
        ("job.succeeded", "https://example.org/hook", job_id)
    ]


def documented_events() -> dict[str, tuple[set[str], set[str]]]:
    """Of each event in docs/states.md: the names its data always has, and those it may have besides."""
    section = (DOCS / "states.md").read_text().split("\n## Events\n")[1].split("\n## ")[0]
    found = {}
    for event, data in re.findall(r"^\| `(\w+)` \|[^|]*\|(.*)\|$", section, re.MULTILINE):
        maybe = set(re.findall(r"\[`(\w+)`\]", data))
        found[event] = (set(re.findall(r"`(\w+)`", data)) - maybe, maybe)
    return found


def test_events_carry_exactly_what_the_documentation_says(db: Database) -> None:
    done = make.submit(db).job
    fail(db, Outcome.TRANSIENT_INFRA)
    make.run(db, "UPDATE steps SET run_at = clock_timestamp() WHERE state = 'ready'")
    make.complete(db, make.claimed(db, "w2"))
    canceled = lifecycle.retry(db, "t1", done.id, max_queued=99, max_queued_per_tenant=99).job
    lifecycle.cancel(db, "t1", canceled.id, "seen enough")
    silent = make.submit(db, replace(make.diamond(), model=None), run_at=datetime.now(UTC) + SOON).job
    lifecycle.delete(db, "t1", silent.id)
    failed = make.submit(db).job
    lifecycle.release(db, make.claimed(db), Outcome.BAD_INPUT, message="cannot be read", field="/input/image")
    plain = make.submit(db).job
    lifecycle.release(db, make.claimed(db), Outcome.BAD_INPUT, message="cannot be read")
    resumed = make.submit(db).job
    for outcome in (Outcome.YIELDED, None):
        held = make.claimed(db)
        assert lifecycle.resumed(db, held, 3, exact=True)
        if outcome:
            lifecycle.release(db, held, outcome, message="the worker drains")
        else:
            make.complete(db, held)
    said: dict[str, list[set[str]]] = {}
    for event in store.events_after(
        db, dict.fromkeys((one.id for one in (done, canceled, silent, failed, plain, resumed)), 0)
    ):
        present = {name for name, value in event.data.items() if value is not None}
        said.setdefault(event.type, []).append(present)
        if "retry_of" in present:
            assert event.data["retry_of"] == ids.public(ids.JOB, done.id)
    documented = documented_events()
    assert said.keys() == documented.keys()
    for event, (always, maybe) in documented.items():
        assert set.intersection(*said[event]) == always, event
        assert set.union(*said[event]) == always | maybe, event


def test_completing_again_after_an_unclear_answer_says_already_and_changes_nothing(db: Database) -> None:
    job_id = make.submit(db).job.id
    held = make.claimed(db)
    make.complete(db, held)
    again = make.complete(db, held)
    assert (again.answer, again.job_state, again.seq) == ("already", JobState.SUCCEEDED, 4)
    assert make.rows(db, "SELECT count(*) FROM artifacts") == [(1,)]
    assert len(make.events(db, job_id)) == 4


def test_a_late_commit_of_a_lost_lease_is_fenced_and_leaves_no_trace(db: Database) -> None:
    job_id = make.submit(db).job.id
    dead = make.claimed(db)
    make.run(db, "UPDATE steps SET lease_until = clock_timestamp()")
    assert [reaped.outcome for reaped in lifecycle.reap(db, grace_s=0)] == [Outcome.WORKER_LOST]
    living = make.claimed(db, "w2")
    assert make.complete(db, dead).answer == "fenced"
    assert lifecycle.renew(db, dead, lease_s=30, progressed=True) == "lost"
    assert lifecycle.release(db, dead, Outcome.APP_ERROR, message="late").answer == "fenced"
    assert make.complete(db, living).answer == "ok"
    assert make.complete(db, dead).answer == "fenced"
    assert make.rows(db, "SELECT fence FROM artifacts") == [(living.fence,)]
    assert make.events(db, job_id)[-1] == "succeeded"


def test_a_step_cannot_succeed_with_nothing(db: Database) -> None:
    make.submit(db)
    with pytest.raises(ValueError, match="at least one artifact"):
        lifecycle.complete(db, make.claimed(db), [])


def test_a_diamond_runs_in_order_and_a_retry_never_runs_a_finished_step_again(db: Database) -> None:
    job_id = make.submit(db, make.diamond()).job.id
    first = make.claimed(db)
    assert make.claim(db) is None
    assert make.complete(db, first).queues == ("cpu", "gpu")
    left, right = make.claimed(db), make.claimed(db)
    assert {left.step_name, right.step_name} == {"left", "right"}
    assert make.complete(db, left).queues == ()
    lifecycle.release(db, right, Outcome.RUNNER_LOST, message="died")
    again = make.claimed(db, "w2")
    assert (again.step_name, again.attempt) == ("right", 2)
    assert make.complete(db, again).queues == ("encode",)
    last = make.claimed(db)
    assert make.complete(db, last).job_state is JobState.SUCCEEDED
    job = store.get_job(db, "t1", job_id)
    assert [output.step_name for output in job.outputs] == ["last"]
    assert make.rows(db, "SELECT result_artifact FROM jobs") == [(job.outputs[0].id,)]
    end = store.events_after(db, {job_id: job.event_seq - 1})[0]
    assert end.data == {"outputs": [f"asset_{job.outputs[0].id.hex}"]}, "what other steps consumed is no output"
    assert [(attempt.step_name, attempt.n) for attempt in job.attempts if attempt.outcome != "succeeded"] == [
        ("right", 1)
    ]


def test_progress_of_a_pipeline_counts_its_steps_and_stays_below_one(db: Database) -> None:
    job_id = make.submit(db, make.plan(make.step("a"), make.step("b", needs=["a"]))).job.id
    make.complete(db, make.claimed(db))
    assert store.get_job(db, "t1", job_id).progress["fraction"] == 0.5
    lifecycle.renew(db, make.claimed(db), lease_s=30, progressed=True, progress=Progress(1.0))
    assert store.get_job(db, "t1", job_id).progress["fraction"] == 0.99


# --- release


def fail(db: Database, outcome: Outcome, worker: str = "w1") -> lifecycle.Released:
    """Claim, whatever the backoff and whoever should avoid it, and fail."""
    make.run(db, "UPDATE steps SET run_at = '-infinity', avoid_until = '-infinity' WHERE state = 'ready'")
    return lifecycle.release(db, make.claimed(db, worker), outcome, message=f"it was {outcome}", field="/input/image")


@pytest.mark.parametrize("outcome", [outcome for outcome in RETRIES if outcome not in {Outcome.YIELDED, *UNFIT}])
def test_every_outcome_is_survived_as_often_as_the_table_says(db: Database, outcome: Outcome) -> None:
    plan = make.plan(make.step(max_app=5))
    job_id = make.submit(db, plan, webhook="https://example.org/hook").job.id
    limit = RETRIES[outcome].limit
    survived = 4 if limit is None else limit
    assert [fail(db, outcome).answer for _ in range(survived)] == ["retry"] * survived
    assert fail(db, outcome).answer == "failed"
    job = store.get_job(db, "t1", job_id)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.code == ("poison" if RETRIES[outcome].kill else outcome)
    assert (job.error.message, job.error.field) == (f"it was {outcome}", "/input/image")
    assert make.events(db, job_id)[-2:] == ["attempt_ended", "failed"]
    assert make.rows(db, "SELECT type FROM webhook_outbox") == [("job.failed",)]
    assert store.open_jobs(db) == 0


def test_the_third_kill_is_poison_whatever_killed_it(db: Database) -> None:
    job_id = make.submit(db).job.id
    assert fail(db, Outcome.WORKER_LOST).answer == "retry"
    assert fail(db, Outcome.STALLED).answer == "retry"
    assert fail(db, Outcome.RUNNER_LOST).answer == "failed"
    assert store.get_job(db, "t1", job_id).error.code == "poison"  # type: ignore[union-attr]


def test_application_and_infrastructure_failures_have_budgets_of_their_own(db: Database) -> None:
    job_id = make.submit(db, make.plan(make.step(max_app=2))).job.id
    for outcome in (Outcome.TRANSIENT_INFRA, Outcome.GPU_OOM, Outcome.APP_ERROR, Outcome.HOST_OOM):
        assert fail(db, outcome).answer == "retry"
    assert fail(db, Outcome.TIMEOUT).answer == "failed"
    assert store.get_job(db, "t1", job_id).error.code == "timeout"  # type: ignore[union-attr]


def test_the_infrastructure_budget_ends_too(db: Database) -> None:
    make.submit(db)
    answers = [fail(db, outcome).answer for outcome in (Outcome.GPU_OOM, Outcome.HOST_OOM) * 2]
    assert answers == ["retry", "retry", "retry", "failed"]


def test_a_yielded_attempt_is_free_keeps_its_number_and_its_checkpoint(db: Database) -> None:
    job_id = make.submit(db, make.plan(make.step(max_app=1))).job.id
    for _ in range(5):
        held = make.claimed(db)
        assert held.attempt == 1
        lifecycle.renew(db, held, lease_s=30, progressed=True, progress=Progress(0.4), checkpoint={"at": 7})
        lifecycle.renew(db, held, lease_s=30, progressed=False)
        released = lifecycle.release(db, held, Outcome.YIELDED, message="drain")
        assert (released.answer, released.queues, released.retry_in_s) == ("retry", ("cpu",), 0.0)
    held = make.claimed(db, "w2")
    assert (held.attempt, held.checkpoint) == (1, {"at": 7})
    job = store.get_job(db, "t1", job_id)
    assert job.progress["fraction"] == 0.4
    assert [attempt.resumed for attempt in job.attempts] == [False, True, True, True, True, True]
    assert make.complete(db, held).job_state is JobState.SUCCEEDED


@pytest.mark.parametrize("outcome", sorted(UNFIT))
def test_a_worker_that_cannot_run_the_model_costs_nothing_and_another_one_goes_on(
    db: Database, outcome: Outcome
) -> None:
    job_id = make.submit(db, make.plan(make.step(max_app=1))).job.id
    for worker in ("w1", "w2"):
        store.upsert_worker(db, make.presence(worker))
    for _ in range(6):
        held = make.claimed(db, "w1")
        lifecycle.renew(db, held, lease_s=30, progressed=True, checkpoint={"at": 7})
        message = f"{outcome}: run: framewright models pull x"
        assert lifecycle.release(db, held, outcome, message=message).answer == "retry"
        assert lifecycle.claim(db, "w1", ["cpu"], [held.engine], lease_s=30) is None
        make.run(db, "UPDATE steps SET avoid_until = '-infinity'")
    held = make.claimed(db, "w2")
    assert (held.attempt, held.checkpoint) == (1, {"at": 7})
    told = store.get_job(db, "t1", job_id).attempts
    assert [(one.outcome, one.message) for one in told[:-1]] == [(outcome, message)] * 6
    assert make.complete(db, held).job_state is JobState.SUCCEEDED


def test_who_lost_a_worker_goes_on_and_who_failed_by_himself_starts_over(db: Database) -> None:
    make.submit(db)
    for outcome, kept in ((Outcome.WORKER_LOST, {"at": 7}), (Outcome.APP_ERROR, None)):
        held = make.claimed(db)
        lifecycle.renew(db, held, lease_s=30, progressed=True, checkpoint={"at": 7})
        lifecycle.release(db, held, outcome, message="")
        make.run(db, "UPDATE steps SET run_at = '-infinity'")
        again = make.claimed(db)
        assert again.checkpoint == kept
        lifecycle.release(db, again, Outcome.YIELDED, message="")


def test_no_backoff_is_longer_than_the_cap(db: Database) -> None:
    make.submit(db, make.plan(make.step(max_app=14)))
    waits = [fail(db, Outcome.APP_ERROR).retry_in_s or 0 for _ in range(13)]
    assert max(waits) == waits[-1] == lifecycle.BACKOFF_CAP_S


def test_backoff_grows_from_the_table_with_jitter(db: Database) -> None:
    waits: list[list[float]] = []
    for _ in range(6):
        make.submit(db)
        waits.append([fail(db, Outcome.TRANSIENT_INFRA).retry_in_s or 0 for _ in range(3)])
        assert fail(db, Outcome.TRANSIENT_INFRA).answer == "failed"
    for n, seconds in enumerate(zip(*waits, strict=True)):
        assert all(2.5 * 2**n <= wait <= 7.5 * 2**n for wait in seconds), (n, seconds)
        assert len(set(seconds)) > 1


def test_a_lost_worker_costs_no_wait_the_first_time_and_thirty_seconds_the_second(db: Database) -> None:
    make.submit(db)
    first, second = fail(db, Outcome.WORKER_LOST), fail(db, Outcome.WORKER_LOST)
    assert (first.retry_in_s, first.queues) == (0.0, ("cpu",))
    assert (second.retry_in_s, second.queues) == (30.0, ())
    assert make.claim(db, "w2") is None


def test_a_retry_avoids_the_worker_it_failed_on_while_another_can_take_it(db: Database) -> None:
    for worker in ("w1", "w2"):
        store.upsert_worker(db, make.presence(worker))
    make.submit(db)
    lifecycle.release(db, make.claimed(db, "w1"), Outcome.RUNNER_LOST, message="died")
    assert make.claim(db, "w1") is None
    make.run(db, "UPDATE steps SET avoid_until = clock_timestamp()")
    assert make.claim(db, "w1") is not None


@pytest.mark.parametrize(
    "other",
    [
        None,
        {"ttl_s": 0.0},
        {"queues": ("gpu",)},
        {"engines": ("other",)},
        {"state": "draining"},
    ],
)
def test_a_retry_returns_at_once_to_the_only_worker_that_can_take_it(
    db: Database, other: dict[str, Any] | None
) -> None:
    store.upsert_worker(db, make.presence("w1"))
    if other is not None:
        store.upsert_worker(db, make.presence("w2", **other))
    make.submit(db)
    lifecycle.release(db, make.claimed(db, "w1"), Outcome.RUNNER_LOST, message="died")
    assert make.claimed(db, "w1").attempt == 2


def test_a_failing_step_revokes_its_siblings(db: Database) -> None:
    job_id = make.submit(db, make.diamond()).job.id
    make.complete(db, make.claimed(db))
    one, other = make.claimed(db), make.claimed(db)
    assert lifecycle.release(db, one, Outcome.BAD_INPUT, message="no", field="/input/image").answer == "failed"
    assert lifecycle.renew(db, other, lease_s=30, progressed=True) == "lost"
    assert make.complete(db, other).answer == "fenced"
    job = store.get_job(db, "t1", job_id)
    assert {step.state for step in job.steps} == {StepState.SUCCEEDED, StepState.FAILED, StepState.CANCELED}
    assert {attempt.outcome for attempt in job.attempts} == {Outcome.SUCCEEDED, Outcome.BAD_INPUT, Outcome.CANCELED}


def test_a_message_with_a_nul_or_without_end_is_stored_short_and_clean(db: Database) -> None:
    job_id = make.submit(db).job.id
    lifecycle.release(db, make.claimed(db), Outcome.BAD_INPUT, message="a\0b" + "x" * 10_000)
    message = store.get_job(db, "t1", job_id).error.message  # type: ignore[union-attr]
    assert message.startswith("abx")
    assert len(message) == lifecycle.MESSAGE_CAP


def test_success_and_cancel_are_no_releases(db: Database) -> None:
    make.submit(db)
    held = make.claimed(db)
    for outcome in (Outcome.SUCCEEDED, Outcome.CANCELED):
        with pytest.raises(ValueError, match="released"):
            lifecycle.release(db, held, outcome, message="")


# --- cancel, delete, patch, retry, expire


def test_cancel_is_final_at_once_and_again_answers_the_state(db: Database) -> None:
    job_id = make.submit(db, make.diamond(), webhook="https://example.org/hook").job.id
    held = make.claimed(db)
    job = lifecycle.cancel(db, "t1", job_id, "changed my mind")
    assert (job.state, job.cancel_reason) == (JobState.CANCELED, "changed my mind")
    assert make.complete(db, held).answer == "fenced"
    assert lifecycle.cancel(db, "t1", job_id, "again").cancel_reason == "changed my mind"
    assert make.events(db, job_id) == ["queued", "step_started", "canceled"]
    assert make.rows(db, "SELECT type FROM webhook_outbox") == [("job.canceled",)]


def test_cancel_after_success_answers_success(db: Database) -> None:
    job_id = make.submit(db).job.id
    make.complete(db, make.claimed(db))
    assert lifecycle.cancel(db, "t1", job_id, "late").state is JobState.SUCCEEDED


def test_cancel_racing_commit_has_one_winner_and_both_learn_it(db: Database) -> None:
    won = set()
    for _ in range(40):
        job_id = make.submit(db).job.id
        held = make.claimed(db)
        at_once = Barrier(2)

        def cancel(job_id: uuid.UUID = job_id, at_once: Barrier = at_once) -> JobState:
            at_once.wait(30)
            return lifecycle.cancel(db, "t1", job_id, "race").state

        def commit(held: Any = held, at_once: Barrier = at_once) -> str:
            at_once.wait(30)
            return make.complete(db, held).answer

        with ThreadPoolExecutor(2) as pool:
            state, answer = pool.submit(cancel), pool.submit(commit)
        assert (state.result(), answer.result()) in {(JobState.CANCELED, "fenced"), (JobState.SUCCEEDED, "ok")}
        assert len([event for event in make.events(db, job_id) if event in {"canceled", "succeeded"}]) == 1
        won.add(answer.result())
    assert won


@pytest.mark.parametrize("verb", ["cancel", "delete", "patch", "retry", "get"])
def test_another_tenants_job_is_not_there(db: Database, verb: str) -> None:
    job_id = make.submit(db).job.id
    caps = {"max_queued": 10, "max_queued_per_tenant": 10}
    doing = {
        "cancel": lambda id_: lifecycle.cancel(db, "t2", id_, ""),
        "delete": lambda id_: lifecycle.delete(db, "t2", id_),
        "patch": lambda id_: lifecycle.patch(db, "t2", id_, priority=1),
        "retry": lambda id_: lifecycle.retry(db, "t2", id_, **caps),
        "get": lambda id_: store.get_job(db, "t2", id_),
    }[verb]
    said = set()
    for id_ in (job_id, uuid.uuid4()):
        with pytest.raises(NotFound) as caught:
            doing(id_)
        said.add(caught.value.detail)
    assert len(said) == 1
    assert store.get_job(db, "t1", job_id).state is JobState.QUEUED


def test_delete_cancels_hides_and_lets_the_outputs_go(db: Database) -> None:
    open_id = make.submit(db).job.id
    held = make.claimed(db)
    lifecycle.delete(db, "t1", open_id)
    assert lifecycle.renew(db, held, lease_s=30, progressed=True) == "lost"
    done_id = make.submit(db).job.id
    make.complete(db, make.claimed(db))
    (output,) = store.get_job(db, "t1", done_id).outputs
    lifecycle.delete(db, "t1", done_id)
    for job_id in (open_id, done_id):
        with pytest.raises(NotFound):
            store.get_job(db, "t1", job_id)
        with pytest.raises(NotFound):
            lifecycle.delete(db, "t1", job_id)
    with pytest.raises(NotFound):
        store.get_asset(db, "t1", output.id)
    assert [asset.id for asset in store.expire_assets(db)] == [output.id]


def test_a_queued_job_can_be_changed_and_a_running_one_cannot(db: Database) -> None:
    first, second = (make.submit(db).job.id for _ in range(2))
    changed = lifecycle.patch(db, "t1", second, priority=9, metadata={"k": "v"})
    assert (changed.priority, changed.metadata, changed.queue_position) == (9, {"k": "v"}, 1)
    assert make.claimed(db).job_id == second
    with pytest.raises(Conflict):
        lifecycle.patch(db, "t1", second, priority=1, metadata={})
    assert (store.get_job(db, "t1", second).priority, store.get_job(db, "t1", second).metadata) == (9, {"k": "v"})
    later = datetime.now(UTC) + SOON
    assert lifecycle.patch(db, "t1", first, run_at=later).status is Status.SCHEDULED
    assert lifecycle.patch(db, "t1", first, metadata={}).run_at == later
    assert make.claim(db) is None


def test_a_job_cannot_be_put_off_past_the_deadline_to_start(db: Database) -> None:
    deadline = datetime.now(UTC) + SOON
    job = make.submit(db, start_deadline=deadline).job.id
    for late in (deadline, deadline + SOON):
        with pytest.raises(InvalidParams) as refused:
            lifecycle.patch(db, "t1", job, run_at=late, priority=9)
        assert [wrong.pointer for wrong in refused.value.fields] == ["/run_at"]
    unchanged = store.get_job(db, "t1", job)
    assert (unchanged.run_at, unchanged.priority) == (None, 0)
    soon = deadline - SOON / 2
    assert lifecycle.patch(db, "t1", job, run_at=soon).run_at == soon
    assert lifecycle.patch(db, "t1", job, run_at=None).run_at is None


def test_a_job_that_was_changed_is_rung_for_again(db: Database) -> None:
    job_id = make.submit(db).job.id
    store.due_doorbells(db, limit=10, every_s=3600)
    assert store.due_doorbells(db, limit=10, every_s=3600) == {}
    lifecycle.patch(db, "t1", job_id, priority=5)
    assert store.due_doorbells(db, limit=10, every_s=3600) == {"cpu": 1}


def test_retry_makes_a_new_job_of_the_same_plan(db: Database) -> None:
    source = make.asset(db)
    inputs = {"image": {"asset": source.id.hex, "key": source.key}}
    planned = make.plan(make.step("a", inputs=inputs), make.step("b", needs=["a"]))
    old = make.submit(db, planned, priority=3, metadata={"k": "v"}).job
    caps = {"max_queued": 10, "max_queued_per_tenant": 10}
    with pytest.raises(Conflict):
        lifecycle.retry(db, "t1", old.id, **caps)
    fail(db, Outcome.BAD_INPUT)
    again = lifecycle.retry(db, "t1", old.id, **caps, idempotency=key())
    assert lifecycle.retry(db, "t1", old.id, **caps, idempotency=key()).replayed
    assert again.job.id != old.id
    read = store.get_job(db, "t1", again.job.id)
    assert (read.retry_of, read.priority, read.metadata) == (old.id, 3, {"k": "v"})
    assert [(step.name, step.needs, step.state) for step in read.steps] == [
        ("a", (), StepState.READY),
        ("b", ("a",), StepState.BLOCKED),
    ]
    assert make.claimed(db).inputs == inputs
    assert store.get_job(db, "t1", old.id).state is JobState.FAILED
    make.run(db, "UPDATE assets SET expires_at = clock_timestamp()")
    with pytest.raises(AssetUnusable):
        lifecycle.retry(db, "t1", old.id, **caps)


def test_a_job_not_started_in_time_fails_expired_and_a_started_one_does_not(db: Database) -> None:
    started = make.submit(db, start_deadline=datetime.now(UTC) + SOON, priority=1).job.id
    held = make.claimed(db)
    late = make.submit(db, start_deadline=datetime.now(UTC) - SOON).job.id
    make.run(db, "UPDATE jobs SET start_deadline = clock_timestamp() - interval '1 hour'")
    assert make.claim(db) is None
    assert [expired.job_id for expired in lifecycle.expire(db)] == [late]
    job = store.get_job(db, "t1", late)
    assert (job.state, job.error.code, job.error.field) == (JobState.FAILED, "expired", "/start_deadline")  # type: ignore[union-attr]
    assert make.events(db, late) == ["queued", "failed"]
    assert make.complete(db, held).job_state is JobState.SUCCEEDED
    assert store.get_job(db, "t1", started).state is JobState.SUCCEEDED


# --- reap


def test_the_reaper_takes_what_ran_out_and_what_does_not_advance_and_nothing_else(db: Database) -> None:
    for name in ("lost", "stalled", "fine"):
        make.submit(db, make.plan(make.step(queue=name)))
    lost, stalled, fine = (make.claimed(db, name, queues=[name]) for name in ("lost", "stalled", "fine"))
    make.run(db, "UPDATE steps SET lease_until = clock_timestamp() WHERE worker_id = 'lost'")
    make.run(db, "UPDATE steps SET progress_until = clock_timestamp() WHERE worker_id = 'stalled'")
    reaped = {found.step_id: found for found in lifecycle.reap(db, grace_s=0)}
    assert {id_: found.outcome for id_, found in reaped.items()} == {
        lost.step_id: Outcome.WORKER_LOST,
        stalled.step_id: Outcome.STALLED,
    }
    assert reaped[lost.step_id].queue == "lost"
    assert lifecycle.renew(db, fine, lease_s=30, progressed=True) == "ok"
    assert make.claimed(db, "other", queues=["lost"]).attempt == 2


def test_the_reaper_waits_until_the_server_and_itself_were_there_for_one_lease(db: Database, database_url: str) -> None:
    make.submit(db)
    held = make.claimed(db)
    make.run(db, "UPDATE steps SET lease_until = clock_timestamp()")
    assert lifecycle.reap(db, grace_s=1e9) == []
    ((up_s,),) = make.rows(db, "SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8")
    newcomer = Database(database_url, application="young reaper")
    assert newcomer.steady_s < up_s
    # The server has been up for longer than this; the newcomer has not.
    assert lifecycle.reap(newcomer, grace_s=up_s) == []
    newcomer.close()
    assert make.rows(db, "SELECT * FROM fw_reap(%s, '{}')", (up_s + 1000,)) == []
    assert lifecycle.renew(db, held, lease_s=30, progressed=True) == "ok"


def test_a_worker_lost_by_the_reaper_is_no_longer_waited_for(db: Database) -> None:
    for worker in ("w1", "w2"):
        store.upsert_worker(db, make.presence(worker))
    make.submit(db)
    make.claimed(db, "w1")
    make.run(db, "UPDATE steps SET lease_until = clock_timestamp()")
    lifecycle.reap(db, grace_s=0)
    assert {worker.id: worker.alive for worker in store.list_workers(db)} == {"w1": False, "w2": True}
    lifecycle.release(db, make.claimed(db, "w2"), Outcome.RUNNER_LOST, message="died")
    make.run(db, "UPDATE steps SET run_at = '-infinity'")
    assert make.claim(db, "w2") is not None


# --- cost


def test_renewals_are_heap_only(db: Database) -> None:
    """A renewal touches no indexed column and finds room on its page."""
    for _ in range(60):
        make.submit(db)
    held = [make.claimed(db) for _ in range(60)]
    counted = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = 'steps'"
    updates = hot = 0
    for at in range(10):
        for claim in held:
            with db.begin() as connection:
                before = connection.execute(counted).fetchone() or (0, 0)
                row = connection.execute(
                    "SELECT fw_renew(%s, %s, 30, true, %s::jsonb, NULL)",
                    (claim.step_id, claim.fence, f'{{"fraction": 0.{at}, "phase": "rendering"}}'),
                ).fetchone()
                after = connection.execute(counted).fetchone() or (0, 0)
            assert row == ("ok",)
            updates, hot = updates + after[0] - before[0], hot + after[1] - before[1]
    assert updates == 600
    assert hot >= 0.9 * updates


def test_nothing_on_the_hot_path_reads_a_whole_table(db: Database) -> None:
    """At some thousand rows all goes by index, also in a session that planned when there were three."""
    counted = """SELECT relname, seq_scan, idx_scan FROM pg_stat_xact_user_tables
                 WHERE relname IN ('jobs', 'steps') ORDER BY relname"""
    statements = [
        "SELECT fence FROM fw_claim('w1', '{cpu,gpu}', '{scripted}', 30)",
        "SELECT * FROM fw_doorbells(15, 64)",
        "SELECT * FROM fw_reap(0, '{}')",
        "SELECT * FROM fw_expire()",
        "SELECT fw_position('cpu', 0::smallint, now(), 0, 1000)",
        f"SELECT * FROM fw_waits('{make.submit(db).job.id}', 100)",
    ]
    for _ in range(2):
        make.submit(db)
    make.run(db, "ANALYZE jobs, steps")
    with db.connect() as connection:
        for statement in statements[:3] * 8:
            connection.execute(statement.encode())
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: make.submit(db), range(3000)))
        with connection.transaction():
            before = connection.execute(counted).fetchall()
            for statement in statements:
                connection.execute(statement.encode())
                after = connection.execute(counted).fetchall()
                assert [row[1] for row in after] == [row[1] for row in before], statement
        assert all(late[2] > early[2] for late, early in zip(after, before, strict=True))


def test_a_one_step_job_is_three_transactions(db: Database) -> None:
    """Submit, claim and complete are one statement each: with renewals a short job stays below 8 durable writes."""
    make.submit(db, webhook="https://example.org/hook", idempotency=key())
    make.complete(db, make.claimed(db))
    tables = ("jobs", "steps", "attempts", "artifacts", "assets", "events", "idempotency", "webhook_outbox")
    written = " UNION ".join(f"SELECT xmin::text FROM {table}" for table in tables)
    assert len(make.rows(db, written)) == 3
