"""Whatever is sent: a typed 4xx of at most 8 kB that names the field and repeats nothing; never a 5xx."""

from __future__ import annotations

import asyncio
import io
import json
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import pytest
from service import ADMIN_KEY, Api, animate, png, upload
from starlette.types import Message, Receive, Scope, Send

from api import strict
from api.app import PROBLEMS
from api.gate import JSON, Gate

SECRET = "do-not-repeat-me"


def refused(answer: httpx.Response, status: int, *pointers: str, code: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) <= 8192
    assert SECRET not in answer.text
    assert "Input should" not in answer.text
    assert "Extra inputs" not in answer.text
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert tuple(error["pointer"] for error in problem["errors"])[: len(pointers)] == pointers
    if code:
        assert code in {problem["code"], *(error["code"] for error in problem["errors"])}
    return problem


def raw(client: httpx.Client, body: bytes, **headers: str) -> httpx.Response:
    return client.post("/api/v1/jobs", content=body, headers={"Content-Type": "application/json", **headers})


@pytest.mark.parametrize(
    ("body", "status", "pointer", "code"),
    [
        (b'{"kind":"animate","params":{"seconds":NaN}}', 422, "/params/seconds", "not_finite"),
        (b'{"kind":"animate","params":{"seconds":-Infinity}}', 422, "/params/seconds", "not_finite"),
        (b'{"kind":"animate","params":{"seconds":1e999}}', 422, "/params/seconds", "not_finite"),
        (b'{"kind":"animate","params":{"seed":1180591620717411303424}}', 422, "/params/seed", "out_of_range"),
        (b'{"kind":"animate","params":{"seed":' + b"9" * 6000 + b"}}", 422, "/params/seed", "out_of_range"),
        (b'{"kind":"anim\\u0000ate"}', 422, "/kind", "bad_text"),
        (b'{"kind":"animate","metadata":{"a":"\\ud800do-not-repeat-me"}}', 422, "/metadata/a", "bad_text"),
        (b'{"kind":"animate","metadata":{"\\udfff":"a"}}', 422, "/metadata/?", "bad_text"),
        (b'{"kind":"animate","params":{"fps":1,"fps":2}}', 422, "/params/fps", "duplicate_key"),
        (b'{"kind":' + b"[" * 100_000, 422, "", "too_deep"),
        (b'{"kind":' + b"[" * 40 + b"]" * 40 + b"}", 422, "/kind" + "/0" * 31, "too_deep"),
        (b'{"kind":' + b'{"a":' * 2000 + b"1" + b"}" * 2001, 422, None, "too_deep"),
    ],
)
def test_json_that_a_database_would_choke_on_is_refused_where_it_stands(
    client: httpx.Client, body: bytes, status: int, pointer: str | None, code: str
) -> None:
    refused(raw(client, body), status, *([] if pointer is None else [pointer]), code=code)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"nonsense", b'{"kind": animate}', b'{"kind":"a\x00"}', b'{"kind":"\xff"}', b"\xef\xbb\xbf{}"]
)
def test_what_is_no_json_is_refused(client: httpx.Client, body: bytes) -> None:
    answer = raw(client, body)
    assert answer.status_code in {400, 422}
    refused(answer, answer.status_code)


@pytest.mark.parametrize("document", [[], "text", 5, None, True, [1, 2]])
def test_a_body_that_is_no_object_is_refused(client: httpx.Client, document: Any) -> None:
    refused(raw(client, json.dumps(document).encode()), 422)


@pytest.mark.parametrize(
    ("change", "pointer", "code"),
    [
        ({"kind": 5}, "/kind", "wrong_type"),
        ({"kind": SECRET}, "/kind", "unknown_kind"),
        ({"kind": "avatar"}, "/kind", "unsupported_kind"),
        ({"kind": "generate"}, "/params/prompt", "missing"),
        ({"kind": "generate", "params": {"prompt": " "}}, "/params/prompt", "blank"),
        ({"model": SECRET}, "/model", "unknown_model"),
        ({"priority": "high"}, "/priority", "wrong_type"),
        ({"priority": 1.5}, "/priority", "wrong_type"),
        ({"priority": True}, "/priority", "wrong_type"),
        ({"priority": 101}, "/priority", "out_of_range"),
        ({"params": []}, "/params", "wrong_type"),
        ({"params": {"fps": SECRET}}, "/params/fps", None),
        ({"params": {"seconds": 0}}, "/params/seconds", "out_of_range"),
        ({"params": {"size": "1280x"}}, "/params/size", "wrong_format"),
        ({"params": {"move": SECRET}}, "/params/move", "not_one_of"),
        ({"params": {SECRET[:5]: 1}}, f"/params/{SECRET[:5]}", "unknown_field"),
        ({"bogus": 1}, "/bogus", "unknown_field"),
        ({"input": {}}, "/input/image", "missing"),
        ({"input": {"image": 5}}, "/input/image", "wrong_type"),
        ({"input": {"video": "asset_" + "0" * 32}}, "/input/video", None),
        ({"run_at": "tomorrow"}, "/run_at", "wrong_format"),
        ({"run_at": 1}, "/run_at", None),
        ({"metadata": {"a": 1}}, "/metadata/a", "wrong_type"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "/metadata", "out_of_range"),
        ({"preset": SECRET}, "/preset", "unknown_preset"),
        ({"webhook": "ftp://x"}, "/webhook", "wrong_format"),
    ],
)
def test_a_wrong_field_is_named(
    client: httpx.Client, picture: str, change: dict[str, Any], pointer: str, code: str | None
) -> None:
    refused(client.post("/api/v1/jobs", json=animate(picture) | change), 422, pointer, code=code)


def test_a_hundred_wrong_fields_fit_in_one_answer(client: httpx.Client, picture: str) -> None:
    wrong = {f"{'x' * 500}{number}": SECRET * 100 for number in range(100)}
    refused(client.post("/api/v1/jobs", json=animate(picture) | wrong), 422)


@pytest.mark.parametrize("reference", ["asset_" + "0" * 32, "asset_nonsense", "job_" + "0" * 32, "../../etc/passwd"])
def test_a_missing_asset_is_named(client: httpx.Client, reference: str) -> None:
    refused(client.post("/api/v1/jobs", json=animate(reference)), 404, "/input/image", code="not_found")


def test_a_foreign_asset_answers_the_same_bytes_as_a_missing_one(other: httpx.Client, picture: str) -> None:
    other.headers["X-Request-Id"] = "same"
    foreign = other.post("/api/v1/jobs", json=animate(picture))
    missing = other.post("/api/v1/jobs", json=animate("asset_" + "0" * 32))
    refused(foreign, 404, "/input/image")
    assert foreign.content == missing.content


def test_fifty_megabytes_are_refused_before_they_are_read_as_json(client: httpx.Client, picture: str) -> None:
    body = json.dumps(animate(picture) | {"metadata": {"a": SECRET}}).encode() + b" " * 50_000_000
    refused(raw(client, body), 413, code="body_too_large")

    def chunks() -> Any:
        yield body[:1000]
        for _ in range(50):
            yield b" " * 1_000_000

    unannounced = client.post("/api/v1/jobs", content=chunks(), headers={"Content-Type": "application/json"})
    refused(unannounced, 413, code="body_too_large")
    refused(client.post("/api/v1/jobs", json=animate(picture, nope=1)), 422)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
def test_only_plain_json_is_read_as_json(client: httpx.Client, headers: dict[str, str]) -> None:
    refused(client.post("/api/v1/jobs", content=b"{}", headers=headers), 415, code="unsupported_media")


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/api/v1/assets"), ("POST", "/api/v1/assets"), ("POST", "/api/v1/uploads")]
)
def test_a_form_is_told_how_to_send_a_file(client: httpx.Client, method: str, path: str) -> None:
    answer = client.request(method, path, files={"file": ("a.png", png(8, 8), "image/png")})
    told = refused(answer, 415, code="unsupported_media")["detail"]
    shown = shlex.split(told[told.index("curl ") :])
    assert shown[:3] == ["curl", "-X", "PUT"]
    assert {"--data-binary", "Content-Type: image/png"} < set(shown)
    assert ("application/json" in told) == path.endswith("uploads")


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_the_command_that_is_told_uploads_a_file(client: httpx.Client, tmp_path: Path) -> None:
    told = client.post("/api/v1/assets", content=b"x", headers={"Content-Type": "image/png"}).json()["detail"]
    (tmp_path / "photo.png").write_bytes(png(9, 9))
    command = told[told.index("curl ") :].replace("KEY", ADMIN_KEY).replace("URL", str(client.base_url).rstrip("/"))
    done = subprocess.run(shlex.split(command), cwd=tmp_path, capture_output=True, check=True)
    assert json.loads(done.stdout)["width"] == 9


def test_zero_images_and_mixed_sizes_are_refused_where_they_stand(client: httpx.Client) -> None:
    small, large = upload(client, png(32, 32)), upload(client, png(64, 64))
    nothing = client.post("/api/v1/jobs", json={"kind": "encode", "input": {"images": []}})
    refused(nothing, 422, "/input/images")
    mixed = {"kind": "encode", "input": {"images": [small, small, large]}}
    refused(client.post("/api/v1/jobs", json=mixed), 422, "/input/images/2")
    padded = client.post("/api/v1/jobs", json=mixed | {"params": {"fit": "pad"}})
    assert padded.status_code == 201, padded.text


def picture_of(kind: str, **options: Any) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (64, 64), (90, 120, 30)).save(out, kind, **options)
    return out.getvalue()


def animated_webp() -> bytes:
    from PIL import Image

    frames = [Image.new("RGB", (32, 32), (n * 60, 0, 0)) for n in range(3)]
    out = io.BytesIO()
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], duration=100)
    return out.getvalue()


FILES = {
    "text.png": lambda: b"this is no picture\n" * 100,
    "page.jpg": lambda: b"<html><script>alert(1)</script></html>",
    "cut.jpg": lambda: picture_of("JPEG", quality=95)[:-200],
    "huge.png": lambda: png(30_000, 30_000),
    "moving.webp": animated_webp,
    "still.gif": lambda: picture_of("GIF"),
    "list.mp4": lambda: b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n",
    "one byte.png": lambda: b"\x89",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_what_it_says_is_refused(client: httpx.Client, name: str) -> None:
    answer = client.put("/api/v1/assets", params={"filename": name}, content=FILES[name]())
    refused(answer, 415, "/body", code="unsupported_media")


def test_an_empty_upload_is_refused(client: httpx.Client) -> None:
    refused(client.put("/api/v1/assets", content=b""), 400)


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"limit": "0"}, "/query/limit"),
        ({"limit": "101"}, "/query/limit"),
        ({"limit": "many"}, "/query/limit"),
        ({"order": "up"}, "/query/order"),
        ({"status": "done"}, "/query/status"),
        ({"created_after": "yesterday"}, "/query/created_after"),
    ],
)
def test_a_wrong_query_is_named(client: httpx.Client, query: dict[str, str], pointer: str) -> None:
    refused(client.get("/api/v1/jobs", params=query), 422, pointer)


def test_nul_in_a_path_or_a_query_is_refused(client: httpx.Client) -> None:
    refused(client.get("/api/v1/jobs?model=%00"), 400)
    refused(client.get("/api/v1/jobs/job_%00"), 400)
    refused(client.get("/api/v1/workers/a%00b"), 400)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/api/v1/nothing", "/api/v1/jobs", "/api/video/nothing", "/api/v1/openapi.json/x"])
def test_without_a_key_a_path_answers_the_same_whether_it_is_there_or_not(api: Api, method: str, path: str) -> None:
    answer = httpx.request(method, f"{api.url}{path}")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="framewright"')


def test_unknown_paths_and_methods_are_problems_too(client: httpx.Client) -> None:
    refused(client.get(f"/api/v1/{SECRET}"), 404, code="not_found")
    wrong = client.put("/api/v1/jobs", json={})
    refused(wrong, 405, code="method_not_allowed")
    assert wrong.headers["allow"]


@pytest.mark.parametrize(
    "authorization", [None, "Bearer", "Bearer x", "Basic Zm9vOmJhcg==", "Bearer fw_live_" + "a" * 300]
)
def test_without_a_key_nothing_is_told(api: Api, authorization: str | None) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    answer = httpx.get(f"{api.url}/api/v1/jobs/job_{'0' * 32}", headers=headers)
    refused(answer, 401, code="unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(("given", "kept"), [("abc-1.2_3", True), ("a" * 65, False), ("a b", False), ("<x>", False)])
def test_a_request_id_is_kept_when_it_is_harmless(client: httpx.Client, given: str, kept: bool) -> None:
    answer = client.get("/api/v1/jobs/job_1", headers={"X-Request-Id": given})
    assert (answer.headers["x-request-id"] == given) == kept
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer x", f"Basic {ADMIN_KEY}", f"Bearer {ADMIN_KEY[:-1]}"],
    ids=["nothing", "no key", "another scheme", "a wrong checksum"],
)
def test_nothing_is_read_of_one_who_shows_no_key(api: Api, authorization: str) -> None:
    url = httpx.URL(api.url)
    head = "POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n"
    head += f"Authorization: {authorization}\r\n" if authorization else ""
    with socket.create_connection((url.host, url.port), timeout=20) as opened:
        opened.sendall(f"{head}\r\n".encode())
        assert opened.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_a_client_that_asks_before_it_sends_too_much_is_told_so_and_sends_nothing(api: Api) -> None:
    url = httpx.URL(api.url)
    head = "POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50000000\r\n"
    head += f"Expect: 100-continue\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
    with socket.create_connection((url.host, url.port), timeout=20) as opened:
        opened.sendall(f"{head}\r\n".encode())
        assert opened.recv(4096).startswith(b"HTTP/1.1 413 ")


def through_the_gate(chunks: list[bytes], *, whole: bool = True, body_s: float = 30) -> tuple[Any, list[Message]]:
    """What a route behind the gate sees, and what is answered, when a client sends these chunks and then no more."""
    seen: Any = None
    answers: list[Message] = []

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal seen
        seen = scope[JSON]
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        if chunks:
            return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks) or not whole}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        answers.append(message)

    gate = Gate(
        route,
        problems=PROBLEMS,
        max_json=lambda: 2**20,
        raw_routes=frozenset(),
        record=lambda *_: None,
        body_s=body_s,
    )
    headers = [
        (b"content-type", b"application/json"),
        (b"authorization", b"Bearer " + ADMIN_KEY.encode()),
    ]
    scope = {"type": "http", "method": "POST", "path": "/api/v1/jobs", "query_string": b"", "headers": headers}
    asyncio.run(gate(scope, receive, send))
    return seen, answers


def test_a_body_that_does_not_come_is_given_up() -> None:
    _, (start, body) = through_the_gate([b"{"], whole=False, body_s=0.01)
    assert start["status"] == 408
    assert (b"connection", b"close") in start["headers"]
    problem = json.loads(body["body"])
    assert (problem["code"], problem["retryable"]) == ("request_timeout", True)


@pytest.mark.parametrize(("items", "elsewhere"), [(10, False), (20_000, True)])
def test_a_large_body_is_read_as_json_beside_the_loop(items: int, elsewhere: bool) -> None:
    threads: list[threading.Thread] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code is strict.loads.__code__:
            threads.append(threading.current_thread())

    document = {"a": ["x"] * items}
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        seen, _ = through_the_gate([json.dumps(document).encode()])
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert seen == document
    assert [thread is not threading.main_thread() for thread in threads] == [elsewhere]


def test_places_are_only_worked_out_once_something_is_wrong() -> None:
    called: set[str] = set()
    document = {"a": [[] for _ in range(1000)], "b": "\u00e9"}
    sys.setprofile(lambda frame, *_: called.add(frame.f_code.co_name))
    try:
        assert strict.loads(json.dumps(document).encode()) == document
        assert "_walk" not in called
        with pytest.raises(strict.InvalidParams):
            strict.loads(json.dumps(document).replace("00e9", "0000").encode())
        assert "_walk" in called
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_whole_numbers_are_those_of_64_bits(number: int) -> None:
    inward = number - 1 if number > 0 else number + 1
    assert strict.loads(b"[%d]" % inward) == [inward]
    with pytest.raises(strict.InvalidParams) as found:
        strict.loads(b"[%d]" % number)
    assert [(wrong.pointer, wrong.code) for wrong in found.value.fields] == [("/0", "out_of_range")]


@pytest.mark.parametrize("text", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999"])
def test_a_number_that_is_none_is_refused_where_nothing_would_be_taken_too(text: bytes) -> None:
    with pytest.raises(strict.InvalidParams) as found:
        strict.loads(b'{"run_at":%s}' % text)
    assert [(wrong.pointer, wrong.code) for wrong in found.value.fields] == [("/run_at", "not_finite")]


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_thirty_two_levels_are_taken_and_one_more_is_not(opening: str, closing: str) -> None:
    assert strict.loads((opening * 32 + "1" + closing * 32).encode())
    with pytest.raises(strict.InvalidParams):
        strict.loads((opening * 33 + "1" + closing * 33).encode())
