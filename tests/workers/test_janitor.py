"""The janitor on real storage: what nobody can reach goes, what anybody can reach stays."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from desk import SMALL, TENANT, supervised

from framewright import ids, lifecycle, store
from framewright.given import AssetFacts
from framewright.rows import NewAsset
from workers.janitor import Janitor


@pytest.fixture
def janitor(desk, quick) -> Janitor:
    return Janitor(quick, desk.db, desk.storage)


def sql(desk, statement: str, *values) -> None:
    with desk.db.connect() as connection:
        connection.execute(statement, values)


def keys(desk, job_id) -> set[str]:
    return {listed.key for listed in desk.storage.list_prefix(desk.storage.job_prefix(TENANT, job_id))}


def test_bytes_put_through_a_link_after_the_upload_was_completed_go_and_the_asset_stays(desk, janitor):
    body, asset_id, upload_id = b"bytes of a picture", ids.uuid7(), ids.uuid7()
    upload = store.insert_upload(
        desk.db, id=upload_id, tenant_id=TENANT, asset_id=ids.uuid7(), key=desk.storage.asset_key(TENANT, upload_id),
        filename=None, content_type="image/png", size=len(body), sha256=None, ttl_s=900,
    )  # fmt: skip
    link = desk.storage.presign_put(upload.key, len(body), "image/png")
    digest = hashlib.sha256(body).digest()
    key = desk.put(desk.storage.asset_key(TENANT, asset_id), body)
    new = NewAsset(asset_id, TENANT, "image", "image/png", None, len(body), digest, key, ttl_h=1)
    made = store.finish_upload(desk.db, TENANT, upload_id, new)
    assert httpx.put(link, content=body, headers={"Content-Type": "image/png"}).is_success
    assert janitor.sweep_uploads() == 0
    assert desk.storage.head(upload.key) is not None
    sql(desk, "UPDATE uploads SET expires_at = clock_timestamp() - interval '2 hours'")
    assert janitor.sweep_uploads() == 1
    assert desk.storage.head(upload.key) is None
    assert desk.storage.head(made.key) is not None
    assert store.finish_upload(desk.db, TENANT, upload_id, new) == made
    assert janitor.sweep_uploads() == 0


def test_of_a_deleted_job_nothing_is_left_and_of_its_neighbours_everything(desk, quick, janitor):
    with supervised(quick):
        gone, kept = (desk.succeeded(desk.submit()) for _ in range(2))
    still_open = desk.submit()
    strays = [desk.put(f"{desk.storage.job_prefix(TENANT, id_)}stray") for id_ in (gone.id, kept.id, still_open)]
    lifecycle.delete(desk.db, TENANT, gone.id)
    assert janitor.sweep_jobs() == 0  # its files come first
    janitor.expire_assets()
    assert keys(desk, gone.id) == {strays[0]}
    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(lambda _: janitor.sweep_jobs(), range(2))) >= 1
    assert keys(desk, gone.id) == set()
    assert keys(desk, kept.id) == {output.key for output in kept.outputs} | {strays[1]}
    assert keys(desk, still_open) == {strays[2]}
    assert janitor.sweep_jobs() == 0
    lifecycle.delete(desk.db, TENANT, still_open)


def test_a_deleted_jobs_output_stays_while_another_job_reads_it(desk, quick, janitor):
    with supervised(quick):
        read = desk.succeeded(desk.submit())
    output = read.outputs[0]
    name = ids.public(ids.ASSET, output.id)
    facts = AssetFacts(
        *(output.id, output.content_type, "video", output.size, output.width, output.height, output.frames),
        *(output.fps, output.duration_s, output.key, output.sha256.hex()),
    )
    asked = {"kind": "animate", "model": "scripted", "params": SMALL, "input": {"video": name}}
    reader = desk.submit(**asked, assets={name: facts})
    lifecycle.delete(desk.db, TENANT, read.id)
    janitor.expire_assets()
    assert janitor.sweep_jobs() == 0
    assert output.key in keys(desk, read.id)
    with supervised(quick):
        desk.succeeded(reader)
    janitor.expire_assets()
    assert janitor.sweep_jobs() == 1
    assert keys(desk, read.id) == set()
