"""Assets: bytes in, bytes out, by link and by range, directly to S3 and through the API."""

from __future__ import annotations

import hashlib
import http.client
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from hand import Hand
from service import animate, png, upload
from waiting import until

from framewright import store
from framewright.database import Database
from framewright.settings import Settings
from framewright.storage import Storage

BODY = png(200, 100, grey=33)


@pytest.fixture
def asset(client: httpx.Client) -> dict[str, Any]:
    answer = client.put("/api/v1/assets", params={"filename": "../../etc/my picture.png"}, content=BODY)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_an_upload_is_what_its_bytes_are(client: httpx.Client, asset: dict[str, Any]) -> None:
    assert (asset["content_type"], asset["width"], asset["height"], asset["size"]) == ("image/png", 200, 100, len(BODY))
    assert asset["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert asset["filename"] == "my picture.png"
    assert asset["expires_at"]
    assert client.get(asset["links"]["self"]).json() == asset
    assert asset["id"] in {one["id"] for one in client.get("/api/v1/assets").json()["data"]}


def test_a_download_is_a_link_that_needs_no_key(client: httpx.Client, asset: dict[str, Any]) -> None:
    answer = client.get(asset["links"]["content"])
    assert answer.status_code == 302
    direct = httpx.get(answer.headers["location"])
    assert (direct.content, direct.headers["content-type"]) == (BODY, "image/png")


@pytest.mark.parametrize(
    ("asked", "status", "start", "end"),
    [
        (None, 200, 0, None),
        ("bytes=0-9", 206, 0, 10),
        ("bytes=10-", 206, 10, None),
        ("bytes=-7", 206, -7, None),
        (f"bytes=5-{10**9}", 206, 5, None),
        ("bytes=0-0", 206, 0, 1),
        ("bytes=0-4,10-14", 200, 0, None),
        ("pages=1-2", 200, 0, None),
        ("bytes=9-3", 200, 0, None),
    ],
)
def test_ranges_through_the_api(  # noqa: PLR0917 - a table
    client: httpx.Client, asset: dict[str, Any], asked: str | None, status: int, start: int, end: int | None
) -> None:
    headers = {"Range": asked} if asked else {}
    answer = client.get(asset["links"]["content"], params={"proxy": "1"}, headers=headers)
    assert answer.status_code == status
    assert answer.content == BODY[start:end]
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff", "a browser shows nothing of it on our own address"
    if status == 206:
        first = start % len(BODY)
        assert answer.headers["content-range"] == f"bytes {first}-{first + len(answer.content) - 1}/{len(BODY)}"


@pytest.mark.parametrize("asked", [f"bytes={len(BODY)}-", "bytes=999999999-", "bytes=-0"])
def test_a_range_past_the_end(client: httpx.Client, asset: dict[str, Any], asked: str) -> None:
    answer = client.get(asset["links"]["content"], params={"proxy": "1"}, headers={"Range": asked})
    assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{len(BODY)}"


def test_conditions_on_downloads(client: httpx.Client, asset: dict[str, Any]) -> None:
    url, query = asset["links"]["content"], {"proxy": "1"}
    tag = client.head(url).headers["etag"]
    assert client.get(url, params=query, headers={"If-None-Match": tag}).status_code == 304
    stale = client.get(url, params=query, headers={"Range": "bytes=0-4", "If-Range": '"other"'})
    assert (stale.status_code, stale.content) == (200, BODY)
    fresh = client.get(url, params=query, headers={"Range": "bytes=0-4", "If-Range": tag})
    assert (fresh.status_code, fresh.content) == (206, BODY[:5])


def test_head_tells_size_and_type_without_the_bytes(client: httpx.Client, asset: dict[str, Any]) -> None:
    answer = client.head(asset["links"]["content"])
    assert (answer.status_code, answer.content) == (200, b"")
    assert (answer.headers["content-length"], answer.headers["content-type"]) == (str(len(BODY)), "image/png")
    assert answer.headers["accept-ranges"] == "bytes"


def test_a_deleted_asset_is_gone_and_one_in_use_is_kept(client: httpx.Client, hand: Hand) -> None:
    asset = upload(client, png(22, 22))
    job = client.post("/api/v1/jobs", json=animate(asset)).json()
    assert client.delete(f"/api/v1/assets/{asset}").status_code == 409
    client.post(job["links"]["cancel"])
    assert client.delete(f"/api/v1/assets/{asset}").status_code == 204
    for url in (f"/api/v1/assets/{asset}", f"/api/v1/assets/{asset}/content"):
        assert client.get(url).status_code == 404


def test_an_expired_asset_says_so(client: httpx.Client, db: Database) -> None:
    asset = upload(client, png(23, 23))
    with db.connect() as connection:
        connection.execute(
            "UPDATE assets SET expires_at = clock_timestamp() - interval '1 s' WHERE id = %s",
            (asset.removeprefix("asset_"),),
        )
    assert client.get(f"/api/v1/assets/{asset}").json()["state"] == "expired"
    answer = client.get(f"/api/v1/assets/{asset}/content")
    assert (answer.status_code, answer.json()["code"]) == (410, "gone")
    used = client.post("/api/v1/jobs", json=animate(asset))
    assert (used.status_code, used.json()["errors"][0]["pointer"]) == (422, "/input/image")


def announce(client: httpx.Client, body: bytes, **changes: Any) -> dict[str, Any]:
    said = {"size": len(body), "sha256": hashlib.sha256(body).hexdigest(), "content_type": "image/png", **changes}
    answer = client.post("/api/v1/uploads", json=said)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_a_direct_upload_becomes_an_asset(client: httpx.Client) -> None:
    body = png(24, 26)
    started = announce(client, body, filename="direct.png")
    early = client.post(started["links"]["complete"])
    assert (early.status_code, early.json()["code"]) == (409, "conflict")
    headers = {"Content-Type": started["headers"]["Content-Type"]}
    assert httpx.put(started["url"], content=body, headers=headers).is_success
    done = client.post(started["links"]["complete"])
    assert done.status_code == 201, done.text
    assert (done.json()["width"], done.json()["height"], done.json()["filename"]) == (24, 26, "direct.png")
    assert client.post(started["links"]["complete"]).json() == done.json()
    assert client.get(done.json()["links"]["content"], params={"proxy": 1}).content == body


def test_a_link_to_upload_lives_exactly_as_long_as_it_says(client: httpx.Client, settings: Settings) -> None:
    started = announce(client, png(24, 28))
    query = parse_qs(urlsplit(started["url"]).query)
    life = timedelta(seconds=int(query["X-Amz-Expires"][0]))
    ends = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%S%z") + life
    assert life.total_seconds() == settings.presign_s <= 900
    # Two clocks, the database's and the API's, and S3 counts whole seconds.
    assert abs(datetime.fromisoformat(started["expires_at"]) - ends) < life / 10


def test_completing_after_the_link_is_over_says_how_to_get_another(client: httpx.Client, db: Database) -> None:
    sent, missing = announce(client, png(24, 29)), announce(client, png(24, 30))
    assert httpx.put(sent["url"], content=png(24, 29), headers={"Content-Type": "image/png"}).is_success
    with db.connect() as connection:
        connection.execute("UPDATE uploads SET expires_at = clock_timestamp() WHERE completed_at IS NULL")
    late = client.post(missing["links"]["complete"])
    assert (late.status_code, late.json()["code"]) == (410, "gone")
    assert "POST /api/v1/uploads" in late.json()["detail"]
    # What was sent in time is not lost: a large file may take longer than its link.
    assert client.post(sent["links"]["complete"]).status_code == 201


def test_bytes_sent_after_complete_change_nothing(client: httpx.Client) -> None:
    body = png(24, 27)
    started = announce(client, body)
    headers = {"Content-Type": "image/png"}
    assert httpx.put(started["url"], content=body, headers=headers).is_success
    done = client.post(started["links"]["complete"]).json()
    assert httpx.put(started["url"], content=body[:-1] + b"?", headers=headers).is_success
    assert client.get(done["links"]["content"], params={"proxy": 1}).content == body
    assert client.post(started["links"]["complete"]).json() == done


def test_completing_again_answers_the_same_after_the_uploads_own_key_was_swept(
    client: httpx.Client, db: Database
) -> None:
    body = png(24, 31)
    started = announce(client, body)
    assert httpx.put(started["url"], content=body, headers={"Content-Type": "image/png"}).is_success
    done = client.post(started["links"]["complete"]).json()
    id_ = uuid.UUID(started["id"].removeprefix("upload_"))
    with db.connect() as connection:
        connection.execute("UPDATE uploads SET expires_at = clock_timestamp() - interval '1 day' WHERE id = %s", (id_,))
    assert id_ in {upload.id for upload in store.dead_uploads(db)}
    store.mark_uploads_removed(db, [id_])
    again = client.post(started["links"]["complete"])
    assert (again.status_code, again.json()) == (201, done)


def test_a_finished_direct_upload_leaves_nothing_under_its_own_key(
    client: httpx.Client, db: Database, settings: Settings
) -> None:
    storage, body = Storage(settings), png(24, 28)
    known = upload(client, png(24, 29))
    for sent in (body, png(24, 29)):
        started = announce(client, sent)
        httpx.put(started["url"], content=sent, headers={"Content-Type": "image/png"})
        done = client.post(started["links"]["complete"]).json()
        with db.connect() as connection:
            row = connection.execute(
                "SELECT u.key, a.key FROM uploads u JOIN assets a ON a.id = u.asset_id WHERE u.id = %s",
                (started["id"].removeprefix("upload_"),),
            ).fetchone()
        assert row is not None
        assert storage.head(row[0]) is None
        assert storage.head(row[1]) is not None
    assert done["id"] == known


def test_an_input_deleted_while_its_job_is_being_accepted_is_refused_by_name(
    client: httpx.Client, db: Database
) -> None:
    asset = upload(client, png(31, 31))
    waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with ThreadPoolExecutor(1) as pool:
        with db.begin() as deleting, db.connect() as watching:
            deleting.execute("SELECT * FROM fw_delete_asset('default', %s)", (asset.removeprefix("asset_"),))
            submitting = pool.submit(client.post, "/api/v1/jobs", json=animate(asset))
            until(lambda: watching.execute(waits).fetchone(), 5)
        answer = submitting.result(30)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (404, "/input/image")


def test_a_direct_upload_of_other_bytes_is_refused(client: httpx.Client) -> None:
    body = png(25, 25)
    started = announce(client, body, sha256="0" * 64)
    httpx.put(started["url"], content=body, headers={"Content-Type": "image/png"})
    answer = client.post(started["links"]["complete"])
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/sha256")


def test_a_direct_upload_that_is_no_picture_is_refused(client: httpx.Client) -> None:
    started = announce(client, b"just text")
    httpx.put(started["url"], content=b"just text", headers={"Content-Type": "image/png"})
    assert client.post(started["links"]["complete"]).status_code == 415


def test_an_upload_over_the_cap_is_refused_before_it_starts(client: httpx.Client) -> None:
    said = {"size": 2**50, "sha256": "0" * 64}
    assert client.post("/api/v1/uploads", json=said).status_code == 413
    line = http.client.HTTPConnection(client.base_url.host, client.base_url.port or 80, timeout=30)
    line.putrequest("PUT", "/api/v1/assets")
    line.putheader("Authorization", client.headers["Authorization"])
    line.putheader("Content-Length", str(2**50))
    line.endheaders()
    assert line.getresponse().status == 413
    line.close()
