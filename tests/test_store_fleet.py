"""Workers, queues, doorbells, keys, tickets and retention: what the other processes ask of the database."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import jobmaker as make
import pytest

from framewright import lifecycle, store
from framewright.database import Database
from framewright.errors import NotFound
from framewright.jobs import Outcome


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    database = make.fresh(database_url)
    yield database
    database.close()


# --- workers and queues


def test_a_worker_is_there_while_it_says_so(db: Database) -> None:
    assert store.upsert_worker(db, make.presence(capabilities={"vram_mb": 8})) == "run"
    make.submit(db)
    held = make.claimed(db)
    seen = store.get_worker(db, "w1")
    assert (seen.alive, seen.state, seen.running, seen.capabilities) == (True, "idle", (held.job_id,), {"vram_mb": 8})
    store.upsert_worker(db, make.presence(state="busy"))
    again = store.get_worker(db, "w1")
    assert (again.started_at, again.state) == (seen.started_at, "busy")
    assert again.seen_at > seen.seen_at
    store.upsert_worker(db, make.presence(pid=2, ttl_s=0.0))
    restarted = store.get_worker(db, "w1")
    assert restarted.started_at > seen.started_at
    assert not restarted.alive
    store.forget_worker(db, "w1")
    with pytest.raises(NotFound):
        store.get_worker(db, "w1")


def test_what_is_asked_of_a_worker_is_told_at_its_next_word_and_survives_it(db: Database) -> None:
    store.upsert_worker(db, make.presence())
    assert store.set_worker_control(db, "w1", "drain").control == "drain"
    assert store.upsert_worker(db, make.presence()) == "drain"
    assert store.set_worker_control(db, "w1", "run").control == "run"
    with pytest.raises(NotFound):
        store.set_worker_control(db, "nobody", "pause")


def test_workers_long_gone_are_forgotten_and_live_ones_are_not(db: Database) -> None:
    store.upsert_worker(db, make.presence("gone", ttl_s=0.0))
    store.upsert_worker(db, make.presence("here"))
    assert store.purge(db, event_ttl_h=1, worker_ttl_s=3600, limit=10).workers == 0
    assert store.purge(db, event_ttl_h=1, worker_ttl_s=0, limit=10).workers == 1
    assert [worker.id for worker in store.list_workers(db)] == ["here"]


def test_a_queue_counts_only_workers_that_take_work_and_shows_the_others(db: Database) -> None:
    for name in ("w1", "paused", "drained"):
        store.upsert_worker(db, make.presence(name))
    store.upsert_worker(db, make.presence("leaving", state="draining"))
    store.set_worker_control(db, "paused", "pause")
    store.set_worker_control(db, "drained", "drain")
    cpu = {queue.queue: queue for queue in store.queues(db)}["cpu"]
    assert (cpu.workers, cpu.paused) == (1, 3)
    takes = {worker.id for worker in store.list_workers(db) if worker.able("cpu", make.ENGINE)}
    assert takes == {"w1"}
    make.submit(db)
    assert [
        lifecycle.claim(db, name, ["cpu"], [make.ENGINE], lease_s=9) for name in ("paused", "drained", "leaving")
    ] == [
        None,
        None,
        None,
    ]
    store.set_worker_control(db, "paused", "run")
    cpu = {queue.queue: queue for queue in store.queues(db)}["cpu"]
    assert (cpu.workers, cpu.paused) == (2, 2)


def test_queues_say_what_waits_what_runs_and_who_serves(db: Database) -> None:
    store.upsert_worker(db, make.presence(queues=("cpu", "encode")))
    store.upsert_worker(db, make.presence("gone", queues=("gpu",), ttl_s=0.0))
    for _ in range(3):
        make.submit(db)
    make.submit(db, run_at=datetime.now(UTC) + timedelta(hours=1))
    make.submit(db, make.plan(make.step(queue="gpu")))
    make.claimed(db, queues=["cpu"])
    found = {queue.queue: queue for queue in store.queues(db)}
    assert set(found) == {"cpu", "encode", "gpu"}
    cpu = found["cpu"]
    assert (cpu.depth, cpu.scheduled, cpu.running, cpu.workers) == (2, 1, 1, 1)
    assert cpu.oldest_age_s is not None
    assert cpu.oldest_age_s > 0
    assert (found["gpu"].depth, found["gpu"].workers) == (1, 0)
    assert (found["encode"].depth, found["encode"].oldest_age_s, found["encode"].workers) == (0, None, 1)


# --- doorbells


def test_every_due_step_is_rung_for_once_a_period(db: Database) -> None:
    for queue in ("cpu", "cpu", "gpu"):
        make.submit(db, make.plan(make.step(queue=queue)))
    make.submit(db, run_at=datetime.now(UTC) + timedelta(hours=1))
    assert store.due_doorbells(db, every_s=60) == {"cpu": 2, "gpu": 1}
    assert store.due_doorbells(db, every_s=60) == {}
    make.submit(db)
    assert store.due_doorbells(db, every_s=0) == {"cpu": 1}
    assert store.due_doorbells(db, every_s=60) == {"cpu": 1}


def test_a_step_that_became_ready_again_is_rung_for_at_once(db: Database) -> None:
    make.submit(db, make.plan(make.step("a"), make.step("b", needs=["a"], queue="gpu")))
    assert store.due_doorbells(db, every_s=60) == {"cpu": 1}
    held = make.claimed(db)
    lifecycle.release(db, held, Outcome.YIELDED, message="drain")
    assert store.due_doorbells(db, every_s=60) == {"cpu": 1}
    make.complete(db, make.claimed(db))
    assert store.due_doorbells(db, every_s=60) == {"gpu": 1}


def test_a_long_queue_is_rung_for_in_bounded_portions(db: Database) -> None:
    for _ in range(5):
        make.submit(db)
    make.submit(db, make.plan(make.step(queue="gpu")))
    assert store.due_doorbells(db, every_s=60, limit=3) == {"cpu": 3, "gpu": 1}
    assert store.due_doorbells(db, every_s=60, limit=3) == {"cpu": 2}


def test_two_reconcilers_do_not_ring_twice(db: Database) -> None:
    for _ in range(40):
        make.submit(db)
    with ThreadPoolExecutor(4) as pool:
        rung = list(pool.map(lambda _: store.due_doorbells(db, every_s=60).get("cpu", 0), range(4)))
    assert sum(rung) + store.due_doorbells(db, every_s=60).get("cpu", 0) == 40


# --- keys and tickets


def test_a_key_is_usable_until_it_is_revoked_or_expires(db: Database) -> None:
    later, before = datetime.now(UTC) + timedelta(hours=1), datetime.now(UTC) - timedelta(hours=1)
    for id_, expires in (("a" * 12, None), ("b" * 12, later), ("c" * 12, before)):
        store.insert_key(db, id_, "t1", "name", b"d" * 32, ["jobs:read"], expires)
    usable = {key.id[0]: key.usable for key in store.list_keys(db, "t1")}
    assert usable == {"a": True, "b": True, "c": False}
    assert store.live_keys(db, ["a" * 12, "b" * 12, "c" * 12, "d" * 12]) == {"a" * 12, "b" * 12}
    revoked = store.revoke_key(db, "t1", "a" * 12)
    assert (revoked.usable, store.revoke_key(db, "t1", "a" * 12).revoked_at) == (False, revoked.revoked_at)
    assert store.live_keys(db, ["a" * 12]) == set()
    with pytest.raises(NotFound):
        store.revoke_key(db, "t2", "b" * 12)
    assert store.list_keys(db, "t2") == []
    assert store.find_key(db, "z" * 12) is None


def test_storing_a_key_twice_changes_nothing(db: Database) -> None:
    first = store.insert_key(db, "a" * 12, "t1", "first", b"d" * 32, ["admin"])
    assert store.insert_key(db, "a" * 12, "t1", "second", b"e" * 32, ["jobs:read"]) == first
    assert first.scopes == {"admin"}


def test_the_use_of_a_key_is_noted_at_most_once_a_minute(db: Database) -> None:
    store.insert_key(db, "a" * 12, "t1", "name", b"d" * 32, [])
    store.touch_key(db, "a" * 12)
    first = store.list_keys(db, "t1")[0].last_used_at
    assert first is not None
    store.touch_key(db, "a" * 12)
    assert store.list_keys(db, "t1")[0].last_used_at == first
    make.run(db, "UPDATE api_keys SET last_used_at = clock_timestamp() - interval '2 minutes'")
    store.touch_key(db, "a" * 12)
    assert store.list_keys(db, "t1")[0].last_used_at >= first  # type: ignore[operator]


def test_a_ticket_is_good_once_however_many_ask(db: Database) -> None:
    store.insert_key(db, "a" * 12, "t1", "name", b"d" * 32, [])
    store.insert_ticket(db, b"t" * 32, "t1", "a" * 12, ["jobs:read"], 60)
    with ThreadPoolExecutor(8) as pool:
        answers = [ticket for ticket in pool.map(lambda _: store.redeem_ticket(db, b"t" * 32), range(8)) if ticket]
    assert [(ticket.tenant_id, ticket.key_id, ticket.scopes) for ticket in answers] == [
        ("t1", "a" * 12, frozenset({"jobs:read"}))
    ]


def test_a_ticket_is_no_good_late_or_after_its_key_was_revoked(db: Database) -> None:
    store.insert_key(db, "a" * 12, "t1", "name", b"d" * 32, [])
    store.insert_ticket(db, b"1" * 32, "t1", "a" * 12, [], 0)
    assert store.redeem_ticket(db, b"1" * 32) is None
    store.insert_ticket(db, b"2" * 32, "t1", "a" * 12, [], 60)
    store.revoke_key(db, "t1", "a" * 12)
    assert store.redeem_ticket(db, b"2" * 32) is None
    assert store.redeem_ticket(db, b"3" * 32) is None


# --- retention


def test_what_a_dead_attempt_left_is_swept_twice_and_what_won_never(db: Database) -> None:
    job_id = make.submit(db).job.id
    dead = make.claimed(db)
    lifecycle.release(db, dead, Outcome.RUNNER_LOST, message="died")
    make.complete(db, make.claimed(db))
    assert store.dead_prefixes(db) == []  # its worker may still be uploading
    make.run(db, "UPDATE attempts SET ended_at = ended_at - interval '1 hour', sweep_at = sweep_at - interval '1 hour'")
    assert store.dead_prefixes(db) == [("t1", job_id, dead.step_id, "clip", dead.fence, False)]
    store.mark_swept(db, [dead.fence])
    assert store.dead_prefixes(db) == []
    make.run(db, "UPDATE attempts SET ended_at = ended_at - interval '1 day', sweep_at = sweep_at - interval '1 day'")
    assert [prefix.fence for prefix in store.dead_prefixes(db)] == [dead.fence]
    store.mark_swept(db, [dead.fence])
    assert make.rows(db, "SELECT sweep_at FROM attempts") == [(None,), (None,)]


def test_the_checkpoint_a_step_would_resume_from_is_not_swept_while_it_is_open(db: Database) -> None:
    job_id = make.submit(db).job.id
    plain = make.claimed(db)
    lifecycle.release(db, plain, Outcome.YIELDED, message="drain")
    kept = make.claimed(db)
    lifecycle.renew(db, kept, lease_s=30, progressed=True, checkpoint={"fence": kept.fence.hex, "files": []})
    lifecycle.release(db, kept, Outcome.YIELDED, message="drain")
    make.run(db, "UPDATE attempts SET ended_at = ended_at - interval '1 hour', sweep_at = sweep_at - interval '1 hour'")
    assert [prefix.fence for prefix in store.dead_prefixes(db)] == [plain.fence]
    lifecycle.cancel(db, "t1", job_id, "")
    assert {prefix.fence for prefix in store.dead_prefixes(db)} == {plain.fence, kept.fence}


def test_an_attempt_that_won_is_swept_of_its_checkpoints_if_it_stored_any(db: Database) -> None:
    for stored in (True, False):
        make.submit(db)
        held = make.claimed(db)
        lifecycle.complete(db, held, [make.artifact(held)], checkpoints=stored)
        make.run(db, "UPDATE attempts SET sweep_at = sweep_at - interval '1 hour'")
        found = [(dead.fence, dead.succeeded) for dead in store.dead_prefixes(db)]
        assert found == ([(held.fence, True)] if stored else [])
        store.mark_swept(db, [fence for fence, _ in found])
        make.run(db, "UPDATE attempts SET sweep_at = NULL")


def test_what_a_canceled_attempt_left_is_swept_too(db: Database) -> None:
    job_id = make.submit(db).job.id
    canceled = make.claimed(db)
    lifecycle.cancel(db, "t1", job_id, "")
    make.run(db, "UPDATE attempts SET ended_at = ended_at - interval '1 hour', sweep_at = sweep_at - interval '1 hour'")
    assert [prefix.fence for prefix in store.dead_prefixes(db)] == [canceled.fence]


def test_purging_removes_what_is_old_and_keeps_what_is_open(db: Database) -> None:
    old, recent, still_open = (make.submit(db).job.id for _ in range(3))
    for _ in range(2):
        make.complete(db, make.claimed(db))
    make.submit(db, tenant="t2", idempotency=lifecycle.Idempotency("r", b"k" * 32, b"b" * 32, 24))
    store.insert_key(db, "a" * 12, "t1", "name", b"d" * 32, [])
    store.insert_ticket(db, b"1" * 32, "t1", "a" * 12, [], 0)
    store.upsert_worker(db, make.presence(ttl_s=0.0))
    with db.begin() as connection:
        connection.execute("ALTER TABLE jobs DISABLE TRIGGER job_final")
        connection.execute("UPDATE jobs SET finished_at = finished_at - interval '2 hours' WHERE id = %s", (old,))
        connection.execute("ALTER TABLE jobs ENABLE TRIGGER job_final")
    assert store.purge(db, event_ttl_h=3, worker_ttl_s=3600) == (0, 1, 0, 0)
    assert store.purge(db, event_ttl_h=1, worker_ttl_s=0) == (0, 0, 4, 1)
    make.run(db, "UPDATE idempotency SET expires_at = clock_timestamp() - interval '1 s'")
    assert store.purge(db, event_ttl_h=1, worker_ttl_s=0) == (1, 0, 0, 0)
    assert make.events(db, old) == []
    assert len(make.events(db, recent)) == 4
    assert len(make.events(db, still_open)) == 1
    assert store.get_job(db, "t1", old).ended
