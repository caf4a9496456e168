"""Storage: one contract over every S3 we can reach, and what happens when the S3 goes away in the middle."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from framewright import embedded, s3
from framewright.errors import Canceled, ObjectMissing, RangeNotSatisfiable, StorageUnavailable
from framewright.s3 import StorageRefused
from framewright.settings import Settings
from framewright.storage import Storage, attachment

MIB = 1024 * 1024
PART = 5 * MIB


def make_settings(**changes: Any) -> Settings:
    known = {
        "database_url": "postgresql://nobody@localhost/none",
        "redis_url": "redis://localhost:1/0",
        "key_pepper": "pepper-of-the-tests",
        "s3_bucket": f"test-{uuid.uuid4().hex[:12]}",
        "s3_multipart_mb": 5,
    }
    return Settings(**{**known, **changes})


def on(server: Any, **changes: Any) -> Settings:
    keys = {"s3_access_key": server.access_key, "s3_secret_key": server.secret_key}
    return make_settings(**{"s3_endpoint": server.url, **keys, **changes})


@pytest.fixture
def nanio(servers: embedded.Servers) -> Settings:
    """A bucket that does not exist yet on the S3 of the run, which checks every signature."""
    return on(servers.s3)


@pytest.fixture(params=["nanio", "moto"])
def storage(request: pytest.FixtureRequest) -> Iterator[Storage]:
    if request.param == "moto":
        mock_aws = pytest.importorskip("moto").mock_aws
        with mock_aws():
            made = Storage(make_settings(s3_access_key="any", s3_secret_key="thing"))
            made.ensure_bucket()
            yield made
    else:
        made = Storage(request.getfixturevalue("nanio"))
        made.ensure_bucket()
        yield made
    made.close()


@pytest.fixture
def real(nanio: Settings) -> Iterator[Storage]:
    made = Storage(nanio)
    made.ensure_bucket()
    yield made
    made.close()


@pytest.fixture
def own(own_s3: embedded.S3) -> Iterator[Storage]:
    """Storage on an S3 that this test may kill."""
    made = Storage(on(own_s3, upload_retry_s=60))
    made.ensure_bucket()
    yield made
    made.close()


def raw(storage: Storage) -> Any:
    """The boto client behind, to look at what is really there."""
    return storage._client()


def file_of(tmp_path: Path, size: int, name: str = "in.bin") -> tuple[Path, bytes]:
    path = tmp_path / name
    path.write_bytes(random.Random(size).randbytes(size))
    return path, hashlib.sha256(path.read_bytes()).digest()


def put(storage: Storage, key: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / uuid.uuid4().hex
    path.write_bytes(data)
    storage.put_file(key, path, "application/octet-stream", sha256=hashlib.sha256(data).digest())


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 2 * PART, 2 * PART + 12_345])
def test_what_goes_up_comes_down(storage: Storage, tmp_path: Path, size: int) -> None:
    path, sha256 = file_of(tmp_path, size)
    sent: list[int] = []

    head = storage.put_file("t/a/a/one", path, "video/mp4", sha256=sha256, progress=sent.append)

    assert (head.key, head.size, head.content_type, head.sha256) == ("t/a/a/one", size, "video/mp4", sha256)
    assert sent == sorted(sent)
    assert sent[-1] == size
    assert len(sent) == max(1, -(-size // PART))
    assert storage.get_file("t/a/a/one", tmp_path / "out.bin") == size
    assert hashlib.sha256((tmp_path / "out.bin").read_bytes()).digest() == sha256
    assert list(storage.stale_multiparts(older_than_s=-60)) == []


def test_a_head_is_what_was_put_or_none(storage: Storage, tmp_path: Path) -> None:
    put(storage, "t/a/a/one", b"12345", tmp_path)
    head = storage.head("t/a/a/one")
    assert head is not None
    assert (head.size, head.sha256, head.modified.tzinfo is not None) == (5, hashlib.sha256(b"12345").digest(), True)
    assert storage.head("t/a/a/other") is None


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, None, b"0123456789"), (0, 0, b"0"), (2, 5, b"2345"), (7, None, b"789"), (9, 9, b"9"), (5, 400, b"56789")],
)
def test_a_range_is_read_as_http_means_it(
    storage: Storage, tmp_path: Path, start: int, end: int | None, expected: bytes
) -> None:
    put(storage, "t/a/a/one", b"0123456789", tmp_path)
    assert b"".join(storage.open("t/a/a/one", start, end)) == expected


def test_what_cannot_be_read_says_so_before_the_first_byte(storage: Storage, tmp_path: Path) -> None:
    put(storage, "t/a/a/one", b"0123456789", tmp_path)
    with pytest.raises(RangeNotSatisfiable):
        storage.open("t/a/a/one", 10)
    with pytest.raises(ObjectMissing):
        storage.open("t/a/a/other")
    with pytest.raises(ObjectMissing):
        storage.get_file("t/a/a/other", tmp_path / "out.bin")


def test_deleting_takes_a_prefix_and_never_its_neighbours(storage: Storage, tmp_path: Path) -> None:
    for key in ("t/a/j/1/x", "t/a/j/1/s/y", "t/a/j/10/x", "t/b/j/1/x"):
        put(storage, key, b"12", tmp_path)
    assert storage.delete_prefix("t/a/j/1/") == 2
    assert storage.delete_prefix("t/a/j/1/") == 0

    assert [listed.key for listed in storage.list_prefix("t/")] == ["t/a/j/10/x", "t/b/j/1/x"]
    for wrong in ("", "/", "t/a/j/1"):
        with pytest.raises(ValueError, match="prefix"):
            storage.delete_prefix(wrong)


def test_more_keys_than_one_call_takes_are_deleted(storage: Storage, tmp_path: Path) -> None:
    put(storage, "k1050", b"x", tmp_path)
    assert storage.delete(f"k{number}" for number in range(1100)) == 1100
    assert storage.head("k1050") is None


def test_open_multiparts_are_found_and_dropped(storage: Storage) -> None:
    raw(storage).create_multipart_upload(Bucket=storage._bucket, Key="t/a/j/1/big")
    (found,) = storage.stale_multiparts(older_than_s=-60)
    assert found.key == "t/a/j/1/big"

    storage.abort_multipart(found)
    storage.abort_multipart(found)

    assert list(storage.stale_multiparts(older_than_s=-60)) == []


def test_young_multiparts_are_somebody_at_work(real: Storage) -> None:
    raw(real).create_multipart_upload(Bucket=real._bucket, Key="t/a/j/1/big")
    assert list(real.stale_multiparts(older_than_s=3600)) == []
    assert len(list(real.stale_multiparts(older_than_s=-60))) == 1


def test_a_bucket_is_made_once(storage: Storage) -> None:
    storage.ensure_bucket()
    storage.ping()
    gone = Storage(storage._settings.model_copy(update={"s3_bucket": "no-such-bucket-here"}))
    with pytest.raises(ObjectMissing):
        gone.ping()
    with pytest.raises(StorageRefused):
        gone.delete_prefix("t/")


def test_a_cancel_between_parts_leaves_nothing(storage: Storage, tmp_path: Path) -> None:
    path, sha256 = file_of(tmp_path, 3 * PART)
    sent: list[int] = []
    with pytest.raises(Canceled):
        storage.put_file(
            "t/a/j/1/x", path, "video/mp4", sha256=sha256, progress=sent.append, canceled=lambda: len(sent) >= 2
        )
    assert sent == [PART, 2 * PART]
    assert storage.head("t/a/j/1/x") is None
    assert list(storage.stale_multiparts(older_than_s=-60)) == []


@pytest.mark.parametrize(("content", "said"), [(b"short", "5 of 6 bytes"), (b"falsch", "other bytes")])
def test_an_upload_that_is_not_what_was_sent_is_no_success(
    storage: Storage, tmp_path: Path, content: bytes, said: str
) -> None:
    """Somebody (a broken server, a racing writer) puts something else there between the PUT and the HEAD."""
    path = tmp_path / "in.bin"
    path.write_bytes(b"rights")

    def spoil(_: int) -> None:
        raw(storage).put_object(Bucket=storage._bucket, Key="t/a/a/one", Body=content)

    with pytest.raises(StorageUnavailable, match=said):
        storage.put_file("t/a/a/one", path, "video/mp4", sha256=b"\0" * 32, progress=spoil)


def test_keys_hold_what_they_promise_and_nothing_strange() -> None:
    job, fence = uuid.uuid4(), uuid.uuid4()
    key = Storage.output_key("default", job, "clip", fence, "video.mp4")
    assert key == f"t/default/j/{job.hex}/s/clip/{fence.hex}/video.mp4"
    assert key.startswith(Storage.output_prefix("default", job, "clip", fence))
    assert key.startswith(Storage.job_prefix("default", job))
    assert Storage.asset_key("default", job) == f"t/default/a/{job.hex}"
    for wrong in ("", "..", "a/b", ".hidden", "a\n", "x" * 200, "ä"):
        with pytest.raises(ValueError, match="storage key"):
            Storage.output_key("default", job, "clip", fence, wrong)
        with pytest.raises(ValueError, match="storage key"):
            Storage.asset_key(wrong, job)


def test_a_presigned_download_works_until_somebody_touches_it(real: Storage, tmp_path: Path) -> None:
    put(real, "t/a/a/one", b"0123456789", tmp_path)
    link = real.presign_get("t/a/a/one", "clip.mp4", "video/mp4")

    assert httpx.get(link).content == b"0123456789"
    assert httpx.get(link, headers={"Range": "bytes=2-3"}).content == b"23"
    assert httpx.get(link.replace("/one?", "/two?")).status_code == 403
    assert httpx.get(link.replace("video%2Fmp4", "text%2Fhtml")).status_code == 403


def test_a_presigned_download_is_an_attachment_of_a_fixed_type_for_a_short_time(storage: Storage) -> None:
    asked = parse_qs(urlsplit(storage.presign_get("t/a/a/one", 'ü"\r\n.mp4', "video/mp4", expires_s=86_400)).query)
    assert asked["response-content-type"] == ["video/mp4"]
    assert asked["response-content-disposition"] == [
        "attachment; filename=\"____.mp4\"; filename*=UTF-8''%C3%BC%22%0D%0A.mp4"
    ]
    assert asked["X-Amz-Expires"] == ["900"]


def test_links_lead_where_clients_can_go(nanio: Settings) -> None:
    public = Storage(nanio.model_copy(update={"s3_public_endpoint": "https://media.example.test"}))
    for link in (public.presign_get("k", "a", "b/c"), public.presign_put("k", 1, "b/c")):
        assert link.startswith(f"https://media.example.test/{nanio.s3_bucket}/k?")


def test_a_presigned_upload_takes_exactly_what_was_agreed(real: Storage) -> None:
    link = real.presign_put("t/a/a/up", 10, "image/png")
    agreed = {"Content-Type": "image/png"}

    assert httpx.put(link, content=b"01234567890", headers=agreed).status_code == 403
    assert httpx.put(link, content=b"0123456789", headers={"Content-Type": "text/html"}).status_code == 403
    assert real.head("t/a/a/up") is None
    assert httpx.put(link, content=b"0123456789", headers=agreed).status_code == 200
    head = real.head("t/a/a/up")
    assert head is not None
    assert (head.size, head.content_type, head.sha256) == (10, "image/png", None)


def test_a_file_name_of_any_kind_stays_inside_its_header() -> None:
    for name in ("", "a.mp4", '"; x="', "\r\nSet-Cookie: a=b", "\ud800", "漢字.mp4", "a" * 300):
        header = attachment(name)
        assert header.isascii()
        assert header.isprintable()
        assert header.count('"') == 2


def test_wrong_keys_are_refused_at_once_and_the_secret_is_not_told(nanio: Settings, tmp_path: Path) -> None:
    path, sha256 = file_of(tmp_path, 10)
    stranger = Storage(Settings(**{**nanio.model_dump(), "s3_secret_key": "not-the-secret-at-all"}))
    with pytest.raises(StorageRefused) as refused:
        stranger.put_file("t/a/a/one", path, "video/mp4", sha256=sha256, retry_s=3600)
    assert not refused.value.retryable
    assert "not-the-secret" not in str(refused.value)


def test_a_proxy_of_the_machine_is_not_asked_about_the_machine(
    nanio: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    storage = Storage(nanio)
    storage.ensure_bucket()
    storage.ping()


@pytest.mark.fault
def test_an_s3_that_is_away_is_said_at_once_to_those_who_do_not_wait(
    own: Storage, own_s3: embedded.S3, tmp_path: Path
) -> None:
    path, sha256 = file_of(tmp_path, 10)
    own_s3.kill()
    with pytest.raises(StorageUnavailable):
        own.put_file("t/a/a/one", path, "video/mp4", sha256=sha256, retry_s=0)
    for call in (own.ping, lambda: own.head("k"), lambda: own.open("k"), lambda: own.delete(["k"])):
        with pytest.raises(StorageUnavailable):
            call()
    own.presign_get("k", "a", "b/c")


@pytest.mark.fault
def test_an_s3_that_hangs_is_away(own: Storage, own_s3: embedded.S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "READ_TIMEOUT_S", 0.5)
    impatient = Storage(own._settings)
    own_s3.pause()
    try:
        with pytest.raises(StorageUnavailable):
            impatient.head("k")
    finally:
        own_s3.resume()
    assert impatient.head("k") is None


@pytest.mark.fault
@pytest.mark.parametrize("size", [1000, 3 * PART])
def test_an_upload_outlives_an_s3_that_comes_back(own: Storage, own_s3: embedded.S3, tmp_path: Path, size: int) -> None:
    path, sha256 = file_of(tmp_path, size)
    asked_while_down = []

    def kill(sent: int) -> None:
        if sent < size and own_s3.running:
            own_s3.kill()

    def canceled() -> bool:
        if not own_s3.running:
            asked_while_down.append(True)
            if len(asked_while_down) % 3 == 0:
                own_s3.start()
        return False

    if size < PART:
        own_s3.kill()
    head = own.put_file("t/a/j/1/x", path, "video/mp4", sha256=sha256, canceled=canceled, progress=kill)

    assert (head.size, head.sha256) == (size, sha256)
    outages = 1 if size < PART else 2
    assert len(asked_while_down) == 3 * outages
    assert hashlib.sha256(b"".join(own.open("t/a/j/1/x"))).digest() == sha256


@pytest.mark.fault
def test_a_cancel_is_heard_while_waiting_for_an_s3_that_is_away(
    own: Storage, own_s3: embedded.S3, tmp_path: Path
) -> None:
    path, sha256 = file_of(tmp_path, 1000)
    own_s3.kill()
    asked: list[bool] = []

    def canceled() -> bool:
        asked.append(True)
        return len(asked) > 2

    with pytest.raises(Canceled):
        own.put_file("t/a/j/1/x", path, "video/mp4", sha256=sha256, canceled=canceled, retry_s=3600)
    with pytest.raises(Canceled):
        own.get_file("t/a/j/1/x", tmp_path / "out", canceled=canceled, retry_s=3600)


class Middleman(http.server.ThreadingHTTPServer):
    """Stands between client and S3 and now and then loses an answer: `spoil` says how many of its bytes get through."""

    daemon_threads = True

    def __init__(self, endpoint: str, spoil: Callable[[str, str], int | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(endpoint).netloc
        self.spoil = spoil
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Middleman

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        line = http.client.HTTPConnection(self.server.target)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        line.request(self.command, self.path, body=body, headers=headers)
        answer = line.getresponse()
        data = answer.read()
        line.close()
        passed = self.server.spoil(self.command, self.path)
        if passed == 0:
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection"}:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data if passed is None else data[:passed])
        self.close_connection = passed is not None

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def behind(nanio: Settings) -> Iterator[Callable[[Callable[[str, str], int | None]], Storage]]:
    """`behind(spoil)`: storage whose line to S3 loses what `spoil` says."""
    made: list[Middleman] = []

    def make(spoil: Callable[[str, str], int | None]) -> Storage:
        made.append(Middleman(nanio.s3_endpoint or "", spoil))
        storage = Storage(nanio.model_copy(update={"s3_endpoint": made[-1].url}))
        storage.ensure_bucket()
        return storage

    yield make
    for middleman in made:
        middleman.shutdown()
        middleman.server_close()


def test_a_download_goes_on_where_the_line_dropped(
    behind: Callable[[Callable[[str, str], int | None]], Storage], tmp_path: Path
) -> None:
    path, sha256 = file_of(tmp_path, 3 * MIB)
    dropped: list[str] = []

    def spoil(method: str, _: str) -> int | None:
        if method == "GET" and len(dropped) < 3:
            dropped.append(method)
            return MIB // 2
        return None

    storage = behind(spoil)
    storage.put_file("t/a/a/one", path, "video/mp4", sha256=sha256)

    assert storage.get_file("t/a/a/one", tmp_path / "out.bin", retry_s=30) == 3 * MIB
    assert hashlib.sha256((tmp_path / "out.bin").read_bytes()).digest() == sha256
    assert len(dropped) == 3


def test_a_reader_is_told_when_the_line_drops(
    behind: Callable[[Callable[[str, str], int | None]], Storage], tmp_path: Path
) -> None:
    storage = behind(lambda method, _: 1000 if method == "GET" else None)
    put(storage, "t/a/a/one", b"x" * 5000, tmp_path)
    with pytest.raises(StorageUnavailable):
        b"".join(storage.open("t/a/a/one"))


@pytest.mark.parametrize("lost", ["PUT", "POST uploads=", "POST uploadId="])
def test_an_answer_that_was_lost_is_asked_for_again(
    behind: Callable[[Callable[[str, str], int | None]], Storage], tmp_path: Path, lost: str
) -> None:
    path, sha256 = file_of(tmp_path, 2 * PART + 5)
    losses: list[str] = []
    method, _, marker = lost.partition(" ")

    def spoil(asked: str, target: str) -> int | None:
        if asked == method and marker.rstrip("=") in target and "/t/a/" in target and len(losses) < 3:
            losses.append(target)
            return 0
        return None

    storage = behind(spoil)
    head = storage.put_file("t/a/a/one", path, "video/mp4", sha256=sha256, retry_s=30)

    assert head.size == 2 * PART + 5
    assert len(losses) == 3
    assert hashlib.sha256(b"".join(storage.open("t/a/a/one"))).digest() == sha256
