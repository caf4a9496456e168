"""The client against a real server that misbehaves on purpose: what it tries again, what it never sends twice."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from framewright.client import ApiError, Backoff, Client, DownloadCorrupt, Unreachable
from framewright.client.transfer import free_name, through_api
from framewright.client.views import Output
from framewright.client.watching import messages

JOB = {"id": "job_1", "kind": "animate", "status": "queued", "seq": 1}
FILE = bytes(range(256)) * 2000
SHA = hashlib.sha256(FILE).hexdigest()


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Act = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Stage:
    """A server that plays one act a request, the last one for ever, and remembers what it was sent."""

    url: str = ""
    acts: list[Act] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)


@pytest.fixture
def stage() -> Iterator[Stage]:
    play = Stage()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def act(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            play.seen.append(Seen(self.command, self.path, headers, body))
            (play.acts.pop(0) if len(play.acts) > 1 else play.acts[0])(self)

        do_GET = do_POST = do_PUT = do_DELETE = act  # noqa: N815 - the base class names them

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    play.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield play
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Waits:
    """Stands in for the clock: pauses take no time and are remembered."""

    pauses: list[float] = field(default_factory=list)

    def __call__(self, seconds: float) -> None:
        self.pauses.append(seconds)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def client(stage: Stage, waits: Waits) -> Iterator[Client]:
    with Client(stage.url, "fw_live_test", backoff=Backoff(attempts=4, first_s=0.5, longest_s=8), wait=waits) as one:
        yield one


def answers(status: int, body: object = None, **headers: str) -> Act:
    def act(handler: BaseHTTPRequestHandler) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body if body is not None else {}).encode()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return act


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    """Takes the request and closes the connection without a word."""
    handler.close_connection = True


def streams(*parts: bytes, status: int = 200, kind: str = "text/event-stream") -> Act:
    """Sends the parts and closes, as a process does that is being restarted."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Connection", "close")
        handler.end_headers()
        for part in parts:
            handler.wfile.write(part)
        handler.close_connection = True

    return act


def event(seq: int, kind: str, **data: object) -> bytes:
    body = json.dumps({"job": "job_1", "seq": seq, "event": kind, "at": "2026-01-01T00:00:00Z", "data": data})
    return f"id: {seq}\nevent: {kind}\ndata: {body}\n\n".encode()


def serves_file(*, cut_at: int | None = None, content: bytes = FILE) -> Act:
    """A file with Range; `cut_at` breaks the connection after so many bytes of the body."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        handler.send_response(206 if wanted else 200)
        if wanted:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        handler.wfile.write(content[start:][:cut_at])
        handler.close_connection = cut_at is not None

    return act


def output(stage: Stage) -> Output:
    document = {"name": "clip.mp4", "asset": "asset_1", "content_type": "video/mp4", "size": len(FILE), "sha256": SHA}
    return Output.of(document | {"links": {"content": f"{stage.url}/api/v1/assets/asset_1/content"}})


@pytest.mark.parametrize("trouble", [answers(503), answers(429), answers(502), hangs_up])
def test_a_job_is_submitted_once_however_often_it_is_sent(stage: Stage, client: Client, trouble: Act) -> None:
    stage.acts = [trouble, trouble, answers(201, JOB)]
    assert client.jobs.create({"kind": "animate"}).id == "job_1"
    keys = [seen.headers["idempotency-key"] for seen in stage.seen]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert {seen.body for seen in stage.seen} == {b'{"kind":"animate"}'}


def test_two_submissions_have_two_keys_and_a_callers_key_is_kept(stage: Stage, client: Client) -> None:
    stage.acts = [answers(201, JOB)]
    for key in (None, None, "mine"):
        client.jobs.create({}, idempotency_key=key)
    first, second, third = (seen.headers["idempotency-key"] for seen in stage.seen)
    assert first != second
    assert third == "mine"


def test_a_new_key_is_never_asked_for_twice_when_the_answer_was_lost(stage: Stage, client: Client) -> None:
    stage.acts = [hangs_up, answers(201, {"id": "k", "name": "n"})]
    with pytest.raises(Unreachable):
        client.keys.create({"name": "n"})
    assert len(stage.seen) == 1


def test_a_key_is_asked_for_again_when_the_service_says_it_did_nothing(stage: Stage, client: Client) -> None:
    stage.acts = [answers(503), answers(201, {"id": "k", "name": "n", "key": "secret"})]
    assert client.keys.create({"name": "n"}).key == "secret"


def test_retry_after_is_waited_out(stage: Stage, client: Client, waits: Waits) -> None:
    stage.acts = [answers(429, Retry_After="7"), answers(200, JOB)]
    client.jobs.get("job_1")
    assert waits.pauses == [pytest.approx(7, abs=1.01)]
    assert waits.pauses[0] >= 7


def test_a_retry_after_longer_than_our_patience_is_the_callers_to_decide(stage: Stage, client: Client) -> None:
    problem = {"code": "too_many_requests", "detail": "over the limit", "retryable": True}
    stage.acts = [answers(429, problem, Retry_After="3600")]
    with pytest.raises(ApiError) as refused:
        client.jobs.get("job_1")
    assert (refused.value.code, refused.value.retry_after_s, refused.value.retryable) == (
        "too_many_requests",
        3600,
        True,
    )
    assert len(stage.seen) == 1


def test_pauses_grow_and_the_client_gives_up(stage: Stage, client: Client, waits: Waits) -> None:
    stage.acts = [answers(503)]
    with pytest.raises(ApiError) as refused:
        client.jobs.get("job_1")
    assert refused.value.status == 503
    assert len(stage.seen) == 4
    assert [0.25 <= waits.pauses[0] <= 0.5, 0.5 <= waits.pauses[1] <= 1, 1 <= waits.pauses[2] <= 2] == [True] * 3


def test_nobody_there_is_tried_again_and_then_said(waits: Waits, unused_port: int) -> None:
    with (
        Client(f"http://127.0.0.1:{unused_port}", "k", backoff=Backoff(attempts=3), wait=waits) as client,
        pytest.raises(Unreachable, match="cannot reach"),
    ):
        client.keys.create({"name": "even this one: nothing was sent"})
    assert len(waits.pauses) == 2


def test_a_refusal_keeps_its_code_and_its_fields(stage: Stage, client: Client) -> None:
    wrong = {"pointer": "/params/fps", "code": "out_of_range", "detail": "from 1 to 60"}
    stage.acts = [
        answers(422, {"code": "invalid_params", "detail": "cannot be", "errors": [wrong], "request_id": "r1"})
    ]
    with pytest.raises(ApiError) as refused:
        client.jobs.create({})
    error = refused.value
    assert (error.status, error.code, error.detail, error.request_id) == (422, "invalid_params", "cannot be", "r1")
    assert [(f.pointer, f.code, f.detail) for f in error.fields] == [("/params/fps", "out_of_range", "from 1 to 60")]
    assert len(stage.seen) == 1


@pytest.mark.parametrize("body", [b"<html>captive portal</html>", b"[1,2]", b'"ok"'])
def test_something_that_is_no_framewright_is_said_to_be_none(stage: Stage, client: Client, body: bytes) -> None:
    stage.acts = [answers(200, body)]
    with pytest.raises(Unreachable, match="not as a Framewright API"):
        client.jobs.get("job_1")


@pytest.mark.parametrize("body", [b"<html>bad gateway</html>", b"[]", b'{"errors": 7}', b""])
def test_an_error_that_is_no_problem_document_is_still_an_error(stage: Stage, client: Client, body: bytes) -> None:
    stage.acts = [answers(418, body)]
    with pytest.raises(ApiError) as refused:
        client.jobs.get("job_1")
    assert (refused.value.status, refused.value.code) == (418, "http_418")


def test_unknown_fields_of_a_newer_server_are_kept(stage: Stage, client: Client) -> None:
    stage.acts = [answers(200, JOB | {"mood": "calm", "progress": {"fraction": 0.5, "tiles": 3}})]
    job = client.jobs.get("job_1")
    assert job.document["mood"] == "calm"
    assert job.document["progress"]["tiles"] == 3


def test_all_jobs_come_page_by_page(stage: Stage, client: Client) -> None:
    second = JOB | {"id": "job_2"}
    stage.acts = [
        answers(200, {"data": [JOB], "has_more": True, "last_id": "job_1"}),
        answers(200, {"data": [second], "has_more": False, "last_id": "job_2"}),
    ]
    assert [job.id for job in client.jobs.all({"limit": 1, "status": None})] == ["job_1", "job_2"]
    assert [seen.path for seen in stage.seen] == ["/api/v1/jobs?limit=1", "/api/v1/jobs?limit=1&after=job_1"]


def test_the_services_clock_is_read_from_its_answer(stage: Stage, client: Client) -> None:
    stage.acts = [answers(503), answers(200)]
    clock = client.clock()
    assert clock is not None
    assert abs((clock - datetime.now(UTC)).total_seconds()) < 60
    assert stage.seen[0].path == "/healthz"


# Uploads.


def test_an_upload_that_breaks_starts_again_from_its_first_byte(stage: Stage, client: Client, tmp_path: Path) -> None:
    picture = tmp_path / "a b.png"
    picture.write_bytes(FILE)
    asset = {"id": "asset_1", "content_type": "image/png", "size": len(FILE), "sha256": SHA}
    stage.acts = [hangs_up, answers(503), answers(201, asset)]
    told: list[tuple[int, int]] = []
    assert client.assets.put(picture, progress=lambda done, total: told.append((done, total))).id == "asset_1"
    assert [seen.body for seen in stage.seen] == [FILE] * 3
    assert stage.seen[0].path == "/api/v1/assets?filename=a+b.png"
    assert stage.seen[0].headers["content-type"] == "image/png"
    assert told[-1] == (len(FILE), len(FILE))


def test_a_file_that_is_refused_is_not_sent_again(stage: Stage, client: Client, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"text")
    stage.acts = [answers(415, {"code": "unsupported_media", "detail": "no picture"})]
    with pytest.raises(ApiError, match="no picture"):
        client.assets.put(picture)
    assert len(stage.seen) == 1


# Downloads.


def test_a_download_goes_on_where_it_was_cut_off(stage: Stage, client: Client, tmp_path: Path) -> None:
    stage.acts = [serves_file(cut_at=100_000), serves_file(cut_at=200_000), serves_file()]
    path = client.jobs.download(output(stage), tmp_path / "clip.mp4")
    assert path.read_bytes() == FILE
    assert [seen.headers.get("range") for seen in stage.seen] == [None, "bytes=100000-", "bytes=300000-"]
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


def test_another_process_goes_on_with_what_an_earlier_one_left(stage: Stage, client: Client, tmp_path: Path) -> None:
    stage.acts = [serves_file(cut_at=1000), answers(403, {"code": "forbidden", "detail": "no"})]
    with pytest.raises(ApiError):
        client.jobs.download(output(stage), tmp_path / "clip.mp4")
    assert not (tmp_path / "clip.mp4").exists()
    stage.acts = [serves_file()]
    client.jobs.download(output(stage), tmp_path / "clip.mp4")
    assert stage.seen[-1].headers["range"] == "bytes=1000-"
    assert (tmp_path / "clip.mp4").read_bytes() == FILE


def test_a_server_without_ranges_is_read_from_the_start(stage: Stage, client: Client, tmp_path: Path) -> None:
    stage.acts = [serves_file(cut_at=1000), answers(200, FILE)]
    assert client.jobs.download(output(stage), tmp_path / "clip.mp4").read_bytes() == FILE


def test_wrong_bytes_never_get_the_files_name(stage: Stage, client: Client, tmp_path: Path) -> None:
    stage.acts = [serves_file(content=b"x" * len(FILE))]
    with pytest.raises(DownloadCorrupt):
        client.jobs.download(output(stage), tmp_path / "clip.mp4")
    assert list(tmp_path.iterdir()) == []
    assert len(stage.seen) == 2


def test_a_damaged_beginning_is_thrown_away_once(stage: Stage, client: Client, tmp_path: Path) -> None:
    (tmp_path / f".clip.mp4.{SHA[:16]}.part").write_bytes(b"not the beginning")
    stage.acts = [serves_file()]
    assert client.jobs.download(output(stage), tmp_path / "clip.mp4").read_bytes() == FILE


def test_a_body_that_is_too_long_is_not_read_to_its_end(stage: Stage, client: Client, tmp_path: Path) -> None:
    stage.acts = [serves_file(content=FILE + b"more"), serves_file()]
    assert client.jobs.download(output(stage), tmp_path / "clip.mp4").read_bytes() == FILE


def test_a_file_that_is_there_stays(stage: Stage, client: Client, tmp_path: Path) -> None:
    mine = tmp_path / "clip.mp4"
    mine.write_bytes(b"mine")
    stage.acts = [serves_file()]
    with pytest.raises(FileExistsError):
        client.jobs.download(output(stage), mine)
    assert mine.read_bytes() == b"mine"
    assert client.jobs.download(output(stage), mine, overwrite=True).read_bytes() == FILE


def test_a_file_that_appears_during_the_download_stays(stage: Stage, client: Client, tmp_path: Path) -> None:
    mine = tmp_path / "clip.mp4"
    stage.acts = [serves_file()]
    with pytest.raises(FileExistsError):
        client.jobs.download(output(stage), mine, progress=lambda done, total: mine.write_bytes(b"mine") and None)
    assert mine.read_bytes() == b"mine"


def test_storage_out_of_reach_is_read_through_the_api(
    stage: Stage, client: Client, tmp_path: Path, unused_port: int
) -> None:
    stage.acts = [answers(302, Location=f"http://127.0.0.1:{unused_port}/bucket/key"), serves_file()]
    assert client.jobs.download(output(stage), tmp_path / "clip.mp4").read_bytes() == FILE
    assert stage.seen[-1].path == "/api/v1/assets/asset_1/content?proxy=1"


def test_the_key_does_not_follow_a_redirect_to_another_host(stage: Stage, client: Client, tmp_path: Path) -> None:
    elsewhere = stage.url.replace("127.0.0.1", "localhost")
    stage.acts = [answers(302, Location=f"{elsewhere}/bucket/key"), serves_file()]
    client.jobs.download(output(stage), tmp_path / "clip.mp4")
    assert "authorization" in stage.seen[0].headers
    assert "authorization" not in stage.seen[1].headers


def test_names_are_numbered_and_links_rewritten(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a-2.mp4").touch()
    assert free_name(tmp_path / "a.mp4").name == "a-3.mp4"
    assert free_name(tmp_path / "b.mp4").name == "b.mp4"
    assert through_api("http://h/x?a=1") == "http://h/x?a=1&proxy=1"


# Watching.


def test_a_watch_resumes_after_the_last_event_and_repeats_none(stage: Stage, client: Client) -> None:
    stage.acts = [
        streams(event(1, "queued"), event(2, "step_started"), b"id: 3\nevent: attempt"),
        hangs_up,
        answers(200, JOB | {"status": "running"}),
        streams(b": still here\n\n", event(2, "step_started"), event(3, "step_succeeded"), event(4, "succeeded")),
    ]
    events = [(event.seq, event.type) for event in client.jobs.watch("job_1")]
    assert [one for one in events if one[0]] == [
        (1, "queued"),
        (2, "step_started"),
        (3, "step_succeeded"),
        (4, "succeeded"),
    ]
    ids = [seen.headers.get("last-event-id") for seen in stage.seen]
    assert ids == ["0", "2", None, "2"]


def test_progress_has_no_seq_and_does_not_move_the_cursor(stage: Stage, client: Client) -> None:
    progress = b'event: progress\ndata: {"job":"job_1","event":"progress","data":{"fraction":0.5}}\n\n'
    stage.acts = [streams(event(1, "queued"), progress), streams(event(2, "succeeded"))]
    events = list(client.jobs.watch("job_1"))
    assert [(event.seq, event.type) for event in events] == [(1, "queued"), (None, "progress"), (2, "succeeded")]
    assert events[1].data == {"fraction": 0.5}
    assert stage.seen[1].headers["last-event-id"] == "1"


def test_a_job_that_has_nothing_left_to_say_ends_the_watch(stage: Stage, client: Client) -> None:
    stage.acts = [answers(204, b""), answers(200, JOB | {"status": "failed", "seq": 9})]
    assert [event.type for event in client.jobs.watch("job_1", after=9)] == ["snapshot", "failed"]


@pytest.mark.parametrize("status", [404, 406, 501])
def test_where_streams_do_not_pass_the_job_is_polled(stage: Stage, client: Client, waits: Waits, status: int) -> None:
    stage.acts = [
        answers(status, b"<html>"),
        answers(200, JOB),
        answers(status, b"<html>"),
        answers(200, JOB | {"status": "succeeded"}),
    ]
    assert [event.type for event in client.jobs.watch("job_1")] == ["snapshot", "snapshot", "succeeded"]
    assert all(pause <= 2 for pause in waits.pauses)


def test_an_unknown_job_is_not_watched(stage: Stage, client: Client) -> None:
    stage.acts = [answers(404, {"code": "not_found", "detail": "no such job"})]
    with pytest.raises(ApiError, match="no such job"):
        list(client.jobs.watch("job_2"))
    assert len(stage.seen) == 1


def test_a_watch_gives_up_when_nobody_has_answered_for_long(waits: Waits, unused_port: int) -> None:
    with (
        Client(f"http://127.0.0.1:{unused_port}", "k", backoff=Backoff(attempts=1), wait=waits) as client,
        pytest.raises(Unreachable),
    ):
        list(client.jobs.watch("job_1", patience_s=0))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_stream_is_read_the_same_however_it_is_cut(size: int) -> None:
    text = 'id: 1\r\nevent: a\r\ndata: {"x":"\u2028\u0085"}\r\n\r\n: note\n\n'
    text += "data: one\ndata:two\n\nid: 9\n\nevent: b\rdata: cr\r\r"
    raw = text.encode() + b"\n"
    found = [(m.id, m.event, m.data) for m in messages(raw[i : i + size] for i in range(0, len(raw), size))]
    assert found == [("1", "a", '{"x":"\u2028\u0085"}'), (None, "message", "one\ntwo"), (None, "b", "cr")]


@pytest.fixture
def unused_port() -> int:
    """A port where nobody listens."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
