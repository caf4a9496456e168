"""Reconcilers ring, reap, expire and tidy; each duty on its own, and any number of them at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import redis
from desk import TENANT, supervised
from waiting import until

from framewright import ids, lifecycle, store
from framewright.dispatch import celery_app
from framewright.errors import BrokerUnavailable
from framewright.jobs import Artifact, Outcome
from workers.duty import Duty
from workers.janitor import Janitor
from workers.reconciler import Reconciler

ENGINES = ("scripted",)


@pytest.fixture(scope="module")
def reconciler(quick):
    made = Reconciler(quick)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def nothing_left(desk, quick):
    """Each test ends its own jobs and leaves no doorbell, or the next one would see them."""
    yield
    with desk.db.connect() as connection:
        found = connection.execute("SELECT id FROM jobs WHERE finished_at IS NULL").fetchall()
    for (job_id,) in found:
        lifecycle.cancel(desk.db, TENANT, job_id, "seen enough")
    emptied(quick)


def waiting(quick, queue: str = "cpu") -> int:
    """Doorbells in a queue."""
    with celery_app(quick).connection_for_read() as connection:
        return connection.default_channel.queue_declare(queue=queue, auto_delete=False).message_count


def emptied(quick) -> None:
    with celery_app(quick).connection_for_read() as connection:
        connection.default_channel.queue_purge("cpu")


def sql(desk, statement: str, *values) -> None:
    with desk.db.connect() as connection:
        connection.execute(statement, values)


def claimed(desk, name: str = "a-test"):
    return lifecycle.claim(desk.db, name, ["cpu"], ENGINES, lease_s=60)


def test_a_waiting_step_is_rung_for_once_in_each_period_by_however_many_reconcilers(desk, quick):
    for _ in range(5):
        desk.submit()
    many = [Reconciler(quick) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        rang = list(pool.map(lambda one: one.ring(), many))
    # Each tops the queue up to what it found, so two that shared the rows send no more than one alone.
    assert 1 <= sum(rang) == waiting(quick) <= 5
    assert [one.ring() for one in many] == [0, 0, 0]
    emptied(quick)
    sql(desk, "UPDATE steps SET next_doorbell = clock_timestamp() WHERE state = 'ready'")
    assert many[0].ring() == 5
    for one in many:
        one.close()


def test_doorbells_never_pile_up(desk, quick, reconciler):
    for _ in range(3):
        desk.submit()
    for _ in range(4):
        sql(desk, "UPDATE steps SET next_doorbell = clock_timestamp() WHERE state = 'ready'")
        reconciler.ring()
    assert waiting(quick) == 3


def test_a_doorbell_that_redis_did_not_take_is_rung_as_soon_as_it_does(desk, own_valkey, quick):
    redis_url = type(quick.redis_url)(own_valkey.url)
    # No second ring comes by itself while this test lasts.
    own = Reconciler(quick.model_copy(update={"redis_url": redis_url, "doorbell_s": 3600}))
    desk.submit()
    own_valkey.stop()
    with pytest.raises(BrokerUnavailable):
        own.ring()
    own_valkey.start()
    assert until(lambda: _rung(own)) == 1
    own.close()


def _rung(reconciler) -> int:
    try:
        return reconciler.ring()
    except BrokerUnavailable:
        return 0


def test_a_lease_that_ran_out_goes_back_and_who_watches_is_told(desk, quick, reconciler):
    job_id = desk.submit()
    lease = claimed(desk)
    assert lease.job_id == job_id
    sql(desk, "UPDATE steps SET lease_until = clock_timestamp() WHERE id = %s", lease.step_id)
    with redis.Redis.from_url(quick.redis_url.get_secret_value()) as client:
        before = client.xlen(f"{quick.redis_prefix}live")
        # Not before it has seen the database steadily for a lease: every living worker gets to renew first.
        until(lambda: reconciler.reap() == 1, 30)
        until(lambda: client.xlen(f"{quick.redis_prefix}live") > before)
    assert desk.outcomes(job_id) == ["worker_lost"]
    assert lifecycle.complete(desk.db, lease, [Artifact("video", "t/x", 1, bytes(32), "video/mp4")]).answer == "fenced"


def test_a_reaper_that_has_just_begun_or_just_lost_sight_takes_nothing(desk, quick):
    job_id = desk.submit()
    lease = claimed(desk)
    sql(desk, "UPDATE steps SET lease_until = clock_timestamp() WHERE id = %s", lease.step_id)
    young = Reconciler(quick.model_copy(update={"lease_s": 3600.0}))
    assert young.reap() == 0
    assert desk.outcomes(job_id) == []
    young.close()


def test_a_step_that_stands_still_is_taken_away_even_if_its_worker_renews(desk, reconciler, caplog):
    job_id = desk.submit()
    lease = claimed(desk)
    sql(desk, "UPDATE steps SET progress_until = clock_timestamp() WHERE id = %s", lease.step_id)
    until(lambda: reconciler.reap() == 1, 30)
    assert desk.outcomes(job_id) == ["stalled"]
    assert f"{ids.public(ids.JOB, job_id)} step {lease.step_id}: stalled, retry" in caplog.text


def test_a_job_that_was_not_started_in_time_fails(desk, reconciler):
    deadline = datetime.now(UTC) + timedelta(hours=1)
    job_id = desk.submit()
    sql(desk, "UPDATE jobs SET start_deadline = %s WHERE id = %s", deadline, job_id)
    assert reconciler.expire() == 0
    sql(desk, "UPDATE jobs SET start_deadline = clock_timestamp() WHERE id = %s", job_id)
    assert reconciler.expire() == 1
    assert desk.job(job_id).error.code == "expired"


def keys(desk, prefix: str) -> list[str]:
    return [listed.key for listed in desk.storage.list_prefix(prefix)]


def test_what_a_failed_attempt_left_is_swept_and_what_was_committed_is_not(desk, quick, tmp_path):
    with supervised(quick):
        job = desk.succeeded(desk.submit(crash_at=2))
    dead = next(attempt for attempt in job.attempts if attempt.outcome == Outcome.RUNNER_LOST)
    with desk.db.connect() as connection:
        fence = connection.execute(
            "SELECT fence FROM attempts WHERE job_id = %s AND n = %s", (job.id, dead.n)
        ).fetchone()[0]
    left = desk.put(desk.storage.output_key(TENANT, job.id, dead.step_name, fence, "half.mp4"))
    janitor = Janitor(quick, desk.db, desk.storage)
    janitor.sweep_attempts()
    assert left in keys(desk, desk.storage.job_prefix(TENANT, job.id))
    sql(desk, "UPDATE attempts SET sweep_at = clock_timestamp() WHERE fence = %s", fence)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: janitor.sweep_attempts(), range(2)))
    assert sorted(keys(desk, desk.storage.job_prefix(TENANT, job.id))) == sorted(o.key for o in job.outputs)
    assert janitor.sweep_attempts() == 0


def test_outputs_past_their_time_are_removed_and_those_of_deleted_jobs_too(desk, quick):
    with supervised(quick):
        old, gone, kept = (desk.succeeded(desk.submit()) for _ in range(3))
    sql(desk, "UPDATE assets SET expires_at = clock_timestamp() WHERE job_id = %s", old.id)
    lifecycle.delete(desk.db, TENANT, gone.id)
    janitor = Janitor(quick, desk.db, desk.storage)
    assert janitor.expire_assets() == len(old.outputs) + len(gone.outputs)
    assert keys(desk, desk.storage.job_prefix(TENANT, old.id)) == []
    assert keys(desk, desk.storage.job_prefix(TENANT, gone.id)) == []
    assert len(keys(desk, desk.storage.job_prefix(TENANT, kept.id))) == len(kept.outputs)
    assert [output.state for output in desk.job(old.id).outputs] != ["ready"] * len(old.outputs)
    assert janitor.expire_assets() == 0


def test_the_oldest_outputs_go_when_there_are_too_many_bytes(desk, quick):
    with supervised(quick):
        first, second = (desk.succeeded(desk.submit()) for _ in range(2))
    with desk.db.connect() as connection:
        held = connection.execute("SELECT sum(size)::bigint FROM assets WHERE removed_at IS NULL").fetchone()[0]
    most = quick.model_copy(update={"retention_gb": (held - sum(o.size for o in first.outputs)) / 1e9})
    sql(desk, "UPDATE assets SET created_at = created_at - interval '1 day' WHERE job_id = %s", first.id)
    janitor = Janitor(most, desk.db, desk.storage)
    assert janitor.trim_outputs() == len(first.outputs)
    janitor.expire_assets()
    assert keys(desk, desk.storage.job_prefix(TENANT, first.id)) == []
    assert len(keys(desk, desk.storage.job_prefix(TENANT, second.id))) == len(second.outputs)
    assert janitor.trim_outputs() == 0


def test_parts_of_an_upload_that_nobody_ends_are_dropped(desk, quick, s3):
    client = s3.client()
    client.create_multipart_upload(Bucket=s3.name, Key="t/default/j/x/s/main/y/clip.mp4")
    janitor = Janitor(quick, desk.db, desk.storage)
    assert janitor.abort_multiparts() == 0
    assert janitor.abort_multiparts(older_than_s=0) == 1
    assert client.list_multipart_uploads(Bucket=s3.name).get("Uploads", []) == []


def test_a_duty_that_fails_or_hangs_leaves_the_others_alone():
    hung, going = threading.Event(), threading.Event()
    rounds = []

    def bad() -> int:
        raise BrokerUnavailable("Redis does not answer")

    def stuck() -> int:
        hung.set()
        going.wait(60)
        return 0

    duties = [
        Duty("bad", 0.01, bad),
        Duty("stuck", 0.01, stuck),
        Duty("good", 0.01, lambda: rounds.append(1) or 1),
    ]
    for duty in duties:
        duty.start()
    assert hung.wait(10)
    until(lambda: len(rounds) > 5)
    until(lambda: duties[0].report()["failures"] > 2)
    assert duties[0].report()["error"] == "broker_unavailable"
    assert (duties[2].report()["failures"], duties[2].report()["error"]) == (0, None)
    for duty in duties:
        duty.stop()
    assert not duties[1].join(0)
    going.set()
    assert all(duty.join(10) for duty in duties)


def test_a_duty_that_works_again_forgets_its_failures():
    answers = [psycopg.errors.UndefinedColumn("no such column"), None]

    def act() -> int:
        failure = answers.pop(0)
        if failure:
            raise failure
        return 3

    duty = Duty("sometimes", 60, act)
    duty.round()
    assert (duty.report()["failures"], duty.report()["error"]) == (1, "UndefinedColumn")
    duty.round()
    assert (duty.report()["failures"], duty.report()["error"], duty.report()["done"]) == (0, None, 3)


def test_a_whole_reconciler_sees_lost_work_through_with_a_worker(desk, quick):
    job_id = desk.submit()
    lease = claimed(desk, "a-worker-that-died")
    sql(desk, "UPDATE steps SET lease_until = clock_timestamp() WHERE id = %s", lease.step_id)
    reconciler = Reconciler(quick)
    reconciler.start()
    with supervised(quick):
        job = desk.succeeded(job_id)
    reconciler.close()
    assert [attempt.outcome for attempt in job.attempts] == ["worker_lost", "succeeded"]
    assert not [row for row in store.list_workers(desk.db) if row.id == reconciler.name]
