"""Assets and uploads: one file for the same bytes, nobody else's, gone when its time has come and not before."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import jobmaker as make
import pytest
from waiting import until

from framewright import ids, lifecycle, store
from framewright.database import Database
from framewright.errors import AssetUnusable, BadRequest, Conflict, Gone, NotFound
from framewright.plan import Plan
from framewright.rows import AssetRow, NewAsset


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    database = make.fresh(database_url)
    yield database
    database.close()


def test_the_same_bytes_of_one_tenant_are_one_asset(db: Database) -> None:
    first = make.asset(db, content=b"x")
    again = make.asset(db, content=b"x", ttl_h=5.0)
    assert again.id == first.id
    assert again.expires_at > first.expires_at  # type: ignore[operator]
    assert make.asset(db, content=b"x", ttl_h=0.1).expires_at == again.expires_at
    assert make.asset(db, tenant="t2", content=b"x").id != first.id
    assert make.asset(db, content=b"y").id != first.id


def test_an_asset_is_found_by_its_bytes_and_kept_longer(db: Database) -> None:
    first = make.asset(db, content=b"x")
    digest = hashlib.sha256(b"x").digest()
    found = store.find_asset_by_sha(db, "t1", digest, ttl_h=9.0)
    assert found is not None
    assert found.id == first.id
    assert found.expires_at > first.expires_at  # type: ignore[operator]
    assert store.find_asset_by_sha(db, "t2", digest, ttl_h=9.0) is None
    store.delete_asset(db, "t1", first.id)
    assert store.find_asset_by_sha(db, "t1", digest, ttl_h=9.0) is None
    assert make.asset(db, content=b"x").id != first.id


def test_another_tenants_asset_is_not_there(db: Database) -> None:
    asset = make.asset(db)
    assert store.get_assets(db, "t2", [asset.id]) == {}
    for id_ in (asset.id, uuid.uuid4()):
        with pytest.raises(NotFound):
            store.get_asset(db, "t2", id_)
        with pytest.raises(NotFound):
            store.delete_asset(db, "t2", id_)
    assert store.get_asset(db, "t1", asset.id) == asset


def test_an_expired_asset_is_still_named_as_expired(db: Database) -> None:
    asset = make.asset(db)
    make.run(db, "UPDATE assets SET expires_at = clock_timestamp()")
    assert store.get_asset(db, "t1", asset.id).state == "expired"


def test_an_asset_of_an_open_job_cannot_be_deleted_and_does_not_expire(db: Database) -> None:
    asset = make.asset(db)
    inputs = {"images": [{"asset": asset.id.hex, "key": asset.key}]}
    job_id = make.submit(db, make.plan(make.step(inputs=inputs))).job.id
    make.run(db, "UPDATE assets SET expires_at = clock_timestamp() - interval '1 day'")
    with pytest.raises(Conflict):
        store.delete_asset(db, "t1", asset.id)
    assert store.expire_assets(db) == []
    lifecycle.cancel(db, "t1", job_id, "")
    assert [gone.id for gone in store.expire_assets(db)] == [asset.id]


def test_deleting_an_asset_and_submitting_a_job_on_it_never_both_succeed(db: Database) -> None:
    for _ in range(40):
        asset = make.asset(db)
        planned = make.plan(make.step(inputs={"image": {"asset": asset.id.hex, "key": asset.key}}))
        at_once = Barrier(3)

        def submits(planned: Plan = planned, at_once: Barrier = at_once) -> bool:
            at_once.wait(30)
            try:
                make.submit(db, planned)
            except AssetUnusable:
                return False
            return True

        def deletes(asset: AssetRow = asset, at_once: Barrier = at_once) -> bool:
            at_once.wait(30)
            try:
                store.delete_asset(db, "t1", asset.id)
            except Conflict:
                return False
            return True

        with ThreadPoolExecutor(3) as pool:
            submitted = [pool.submit(submits) for _ in range(2)]
            deleted = pool.submit(deletes)
            assert {one.result() for one in submitted} == {not deleted.result()}


def test_a_job_on_an_asset_of_another_tenant_is_refused_even_if_it_was_planned(db: Database) -> None:
    theirs = make.asset(db, "t2")
    planned = make.plan(make.step(inputs={"image": {"asset": theirs.id.hex, "key": theirs.key}}))
    with pytest.raises(AssetUnusable):
        make.submit(db, planned, "t1")
    assert make.submit(db, planned, "t2").job.tenant_id == "t2"


def test_a_submit_waits_for_a_delete_under_way_and_the_other_way_round(db: Database) -> None:
    asset = make.asset(db)
    planned = make.plan(make.step(inputs={"image": {"asset": asset.id.hex, "key": asset.key}}))
    with ThreadPoolExecutor(1) as pool:
        with db.begin() as connection:
            connection.execute("SELECT 1 FROM assets WHERE id = %s FOR KEY SHARE", (asset.id,))
            waiting = pool.submit(store.delete_asset, db, "t1", asset.id)
            until_somebody_waits(db)
            job_id = make.submit(db, planned).job.id
        with pytest.raises(Conflict):
            waiting.result(30)
        lifecycle.cancel(db, "t1", job_id, "")
        with db.begin() as connection:
            connection.execute("SELECT * FROM fw_delete_asset('t1', %s)", (asset.id,))
            refused = pool.submit(make.submit, db, planned)
            until_somebody_waits(db)
        with pytest.raises(AssetUnusable):
            refused.result(30)
    with pytest.raises(AssetUnusable):
        make.submit(db, planned)


def test_deleting_a_job_waits_for_a_submit_that_reads_its_output(db: Database) -> None:
    make.submit(db)
    held = make.claimed(db)
    make.complete(db, held)
    output = store.get_job(db, "t1", held.job_id).outputs[0]
    planned = make.plan(make.step(inputs={"video": {"asset": output.id.hex, "key": output.key}}))
    with ThreadPoolExecutor(1) as pool:
        with db.begin() as connection:
            connection.execute("SELECT 1 FROM assets WHERE id = %s FOR KEY SHARE", (output.id,))
            deleting = pool.submit(lifecycle.delete, db, "t1", held.job_id)
            until_somebody_waits(db)
            reader = make.submit(db, planned).job.id
        deleting.result(30)
    assert store.expire_assets(db) == []
    lifecycle.cancel(db, "t1", reader, "")
    assert [gone.id for gone in store.expire_assets(db)] == [output.id]


def until_somebody_waits(db: Database) -> None:
    waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    until(lambda: make.run(db, waits))


def test_pages_of_assets(db: Database) -> None:
    made = [make.asset(db).id for _ in range(5)]
    make.asset(db, tenant="t2")
    page, more = store.list_assets(db, "t1", limit=2)
    assert ([asset.id for asset in page], more) == (made[:2:-1], True)
    page, more = store.list_assets(db, "t1", after=made[3], limit=9)
    assert ([asset.id for asset in page], more) == (made[2::-1], False)
    page, more = store.list_assets(db, "t1", before=made[0], limit=2)
    assert ([asset.id for asset in page], more) == ([made[2], made[1]], True)
    assert [asset.id for asset in store.list_assets(db, "t1", order="asc")[0]] == made
    with pytest.raises(BadRequest):
        store.list_assets(db, "t1", after=uuid.uuid4())


def test_expired_files_are_handed_to_the_janitor_until_it_says_they_are_gone(db: Database) -> None:
    asset, kept = make.asset(db), make.asset(db)
    make.run(db, "UPDATE assets SET expires_at = clock_timestamp() WHERE id = %s", (asset.id,))
    assert store.expire_assets(db) == []  # within the grace an upload may still have become an input
    make.run(db, "UPDATE assets SET expires_at = clock_timestamp() - interval '2 hours' WHERE id = %s", (asset.id,))
    assert [gone.id for gone in store.expire_assets(db)] == [asset.id]
    assert store.expire_assets(db) == []
    make.run(db, "UPDATE assets SET removed_at = clock_timestamp() - interval '1 hour' WHERE removed_at IS NOT NULL")
    assert [gone.id for gone in store.expire_assets(db)] == [asset.id]  # that janitor died
    store.mark_purged(db, [asset.id, kept.id])
    make.run(db, "UPDATE assets SET removed_at = clock_timestamp() - interval '1 hour' WHERE removed_at IS NOT NULL")
    assert store.expire_assets(db) == []
    assert store.get_asset(db, "t1", asset.id).state == "expired"
    assert store.get_asset(db, "t1", kept.id).state == "ready"


def test_what_an_open_job_made_so_far_does_not_expire(db: Database) -> None:
    job_id = make.submit(db, make.diamond()).job.id
    make.complete(db, make.claimed(db))
    make.run(db, "UPDATE assets SET expires_at = clock_timestamp()")
    assert store.expire_assets(db) == []
    lifecycle.cancel(db, "t1", job_id, "")
    assert len(store.expire_assets(db)) == 1


def test_a_job_is_swept_when_its_last_file_is_gone_whoever_removed_which(db: Database) -> None:
    for _ in range(20):
        make.submit(db)
        held = make.claimed(db)
        lifecycle.complete(db, held, [make.artifact(held), make.artifact(held, "poster")])
        assert store.dead_jobs(db) == []
        lifecycle.delete(db, "t1", held.job_id)
        files = [asset.id for asset in store.expire_assets(db)]
        assert (len(files), store.dead_jobs(db)) == (2, [])
        at_once = Barrier(2)

        def purges(file: uuid.UUID, at_once: Barrier = at_once) -> None:
            at_once.wait(30)
            store.mark_purged(db, [file])

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(purges, files))
        assert store.dead_jobs(db) == [("t1", held.job_id)]
        store.mark_jobs_swept(db, [held.job_id])
        assert store.dead_jobs(db) == []
    # A frozen worker may wake late, so once more after a day; then never again.
    again = make.rows(db, "SELECT id FROM jobs WHERE sweep_at = finished_at + interval '1 day'")
    assert len(again) == 20
    store.mark_jobs_swept(db, [job_id for (job_id,) in again])
    assert make.rows(db, "SELECT count(*) FROM jobs WHERE sweep_at IS NOT NULL") == [(0,)]


def test_a_deleted_job_without_files_is_swept_too_once_its_workers_had_time_to_hear_of_it(db: Database) -> None:
    job_id = make.submit(db).job.id
    make.claimed(db)
    lifecycle.delete(db, "t1", job_id)
    assert store.dead_jobs(db) == []
    make.run(db, "UPDATE jobs SET sweep_at = sweep_at - interval '2 minutes'")
    assert store.dead_jobs(db) == [("t1", job_id)]


def test_the_oldest_outputs_go_when_there_is_too_much(db: Database) -> None:
    upload = make.asset(db, size=5000)
    outputs = []
    for _ in range(4):
        make.submit(db)
        held = make.claimed(db)
        make.complete(db, held)
        outputs.append(store.get_job(db, "t1", held.job_id).outputs[0].id)
    assert store.trim_outputs(db, 9000) == 0
    assert store.trim_outputs(db, 7500) == 2
    assert store.trim_outputs(db, 7500) == 0
    assert {asset.id for asset in store.expire_assets(db)} == set(outputs[:2])
    assert store.get_asset(db, "t1", upload.id).state == "ready"


def new_asset(asset_id: uuid.UUID, content: bytes = b"x") -> NewAsset:
    digest = hashlib.sha256(content).digest()
    return NewAsset(asset_id, "t1", "image", "image/png", "a.png", 10, digest, f"k/{asset_id}", ttl_h=1)


def upload(db: Database, ttl_s: float = 60.0) -> uuid.UUID:
    return store.insert_upload(
        db, id=ids.uuid7(), tenant_id="t1", asset_id=ids.uuid7(), key="k", filename="a.png", content_type="image/png",
        size=10, sha256=None, ttl_s=ttl_s,
    ).id  # fmt: skip


def test_an_upload_becomes_an_asset_once(db: Database) -> None:
    id_ = upload(db)
    row = store.get_upload(db, "t1", id_)
    made = store.finish_upload(db, "t1", id_, new_asset(row.asset_id))
    assert made.id == row.asset_id
    again = store.finish_upload(db, "t1", id_, new_asset(uuid.uuid4(), b"other"))
    assert again == made
    assert store.get_upload(db, "t1", id_).completed_at is not None


def test_an_upload_of_known_bytes_becomes_the_known_asset(db: Database) -> None:
    known = make.asset(db, content=b"x")
    id_ = upload(db)
    assert store.finish_upload(db, "t1", id_, new_asset(uuid.uuid4())).id == known.id
    assert store.get_upload(db, "t1", id_).asset_id == known.id


def test_uploads_are_handed_to_the_janitor_once_nobody_can_write_to_them_also_completed_ones(db: Database) -> None:
    late, done = upload(db, ttl_s=0.0), upload(db)
    made = store.finish_upload(db, "t1", done, new_asset(uuid.uuid4()))
    assert (store.get_upload(db, "t1", late).late, store.get_upload(db, "t1", done).late) == (True, False)
    with pytest.raises(NotFound):
        store.get_upload(db, "t2", done)
    make.run(db, "UPDATE uploads SET expires_at = clock_timestamp() - interval '2 hours'")
    assert {row.id for row in store.dead_uploads(db)} == {late, done}
    assert {row.id for row in store.dead_uploads(db)} == {late, done}  # a janitor that died in between
    store.mark_uploads_removed(db, [late, done])
    assert store.dead_uploads(db) == []
    with pytest.raises(Gone):
        store.finish_upload(db, "t1", late, new_asset(uuid.uuid4()))
    assert store.get_upload(db, "t1", done).asset_id == made.id
    assert store.finish_upload(db, "t1", done, new_asset(uuid.uuid4(), b"other")) == made


def test_a_key_that_an_asset_lies_under_is_never_handed_to_the_janitor_as_an_uploads(db: Database) -> None:
    id_ = upload(db)
    store.finish_upload(db, "t1", id_, replace(new_asset(uuid.uuid4()), key="k"))
    make.run(db, "UPDATE uploads SET expires_at = clock_timestamp() - interval '2 hours'")
    assert store.dead_uploads(db) == []


def test_a_link_that_still_works_keeps_its_upload(db: Database) -> None:
    store.finish_upload(db, "t1", upload(db), new_asset(uuid.uuid4()))
    make.run(db, "UPDATE uploads SET expires_at = clock_timestamp() - interval '1 minute'")
    assert store.dead_uploads(db) == []  # what was begun in time may still be on its way
