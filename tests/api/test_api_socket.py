"""The socket: tickets, topics, replay, coalescing, previews and every close code."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hand import Hand
from service import Api, animate, png, serve, upload
from starlette.websockets import WebSocket
from waiting import until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from api.hub import EventHub
from api.session import Session
from framewright.database import Database
from framewright.settings import Settings

Job = dict[str, Any]


def ticket(client: httpx.Client) -> str:
    answer = client.post("/api/v1/ws-tickets")
    assert answer.status_code == 201, answer.text
    made: str = answer.json()["ticket"]
    return made


def dial(api: Api, client: httpx.Client, **options: Any) -> ClientConnection:
    return connect(api.socket_url, subprotocols=[f"bearer.{ticket(client)}"], **options)  # type: ignore[list-item]


def say(line: ClientConnection, **message: Any) -> None:
    line.send(json.dumps(message))


def hear(line: ClientConnection) -> dict[str, Any]:
    heard: dict[str, Any] = json.loads(line.recv(timeout=30))
    return heard


def hear_until(line: ClientConnection, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    heard = [hear(line)]
    while not wanted(heard[-1]):
        heard.append(hear(line))
    return heard


def rest(line: ClientConnection) -> list[dict[str, Any]]:
    """Everything until the server closes."""
    heard = []
    try:
        while True:
            heard.append(hear(line))
    except ConnectionClosed:
        return heard


def close_code(line: ClientConnection) -> int | None:
    rest(line)
    return line.close_code


@pytest.fixture
def job(client: httpx.Client, picture: str, hand: Hand) -> Job:
    made: Job = client.post("/api/v1/jobs", json=animate(picture)).json()
    return made


@pytest.fixture
def line(api: Api, client: httpx.Client) -> Iterator[ClientConnection]:
    """A socket that has been welcomed."""
    with dial(api, client) as opened:
        assert hear(opened)["type"] == "welcome"
        yield opened


def of(kind: str, heard: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message for message in heard if message["type"] == kind]


def test_the_whole_life_of_a_job_without_a_gap(line: ClientConnection, job: Job, hand: Hand, tmp_path: Path) -> None:
    topic = f"job:{job['id']}"
    say(line, op="subscribe", id=1, topics=[topic])
    heard = hear_until(line, lambda message: message["type"] == "snapshot")
    assert heard[0] == {"type": "subscribed", "id": 1, "topics": [topic]}
    assert (heard[1]["topic"], heard[1]["seq"], heard[1]["data"]["id"]) == (topic, 1, job["id"])
    claim = hand.claim()
    hear_until(line, lambda message: message.get("event") == "step_started")
    hand.progress(claim, 0.4)
    progress = hear_until(line, lambda message: message["type"] == "progress")[-1]
    assert (progress["data"]["fraction"], progress["data"]["phase"], progress["data"]["attempt"]) == (
        0.4,
        "rendering",
        1,
    )
    hand.complete(claim, tmp_path)
    events = of("event", rest(line))
    assert [(event["seq"], event["event"]) for event in events] == [(3, "step_succeeded"), (4, "succeeded")]
    assert line.close_code == 1000


def test_a_client_resumes_where_it_was(line: ClientConnection, job: Job, hand: Hand, tmp_path: Path) -> None:
    hand.complete(hand.claim(), tmp_path)
    topic = f"job:{job['id']}"
    say(line, op="subscribe", topics=[topic], after={topic: 2})
    heard = rest(line)
    assert not of("snapshot", heard)
    assert [event["seq"] for event in of("event", heard)] == [3, 4]
    assert line.close_code == 1000


def test_a_replay_for_one_listener_repeats_nothing_to_another(
    api: Api, client: httpx.Client, line: ClientConnection, job: Job, hand: Hand
) -> None:
    topic = f"job:{job['id']}"
    say(line, op="subscribe", topics=[topic, "tenant"], keep_open=True)
    hear_until(line, lambda message: message["type"] == "snapshot" and message["topic"] == "tenant")
    claim = hand.claim()
    started = [hear(line), hear(line)]
    assert [(event["topic"], event["seq"]) for event in started] == [(topic, 2), ("tenant", 2)]
    with dial(api, client) as late:
        say(late, op="subscribe", topics=[topic], after={topic: 0})
        hear_until(late, lambda message: message.get("seq") == 2)
        hand.fail(claim)
        assert [event["seq"] for event in of("event", rest(late))] == [3, 4]
    rows = hear_until(line, lambda message: message["topic"] == "tenant" and message["seq"] == 4)
    assert [(event["topic"], event["seq"]) for event in rows] == [(topic, 3), ("tenant", 3), (topic, 4), ("tenant", 4)]


def test_after_the_end_no_progress_comes(line: ClientConnection, job: Job, client: httpx.Client, hand: Hand) -> None:
    topic = f"job:{job['id']}"
    claim = hand.claim()
    say(line, op="subscribe", topics=[topic], keep_open=True)
    hear_until(line, lambda message: message["type"] == "snapshot")
    client.post(job["links"]["cancel"])
    hear_until(line, lambda message: message.get("event") == "canceled")
    hand.progress(claim, 0.7)
    another = client.post("/api/v1/jobs", json=animate(job["input"]["image"])).json()
    say(line, op="subscribe", topics=[f"job:{another['id']}"])
    other_claim = hand.claim()
    hand.progress(other_claim, 0.2)
    assert hear_until(line, lambda message: message["type"] == "progress")[-1]["job"] == another["id"]


def test_keep_open_outlives_the_job(line: ClientConnection, job: Job, client: httpx.Client) -> None:
    client.post(job["links"]["cancel"])
    say(line, op="subscribe", topics=[f"job:{job['id']}"], keep_open=True)
    hear_until(line, lambda message: message["type"] == "snapshot")
    say(line, op="ping", id="still there")
    assert hear(line) == {"type": "pong", "id": "still there"}


def test_after_unsubscribing_nothing_comes(line: ClientConnection, job: Job, client: httpx.Client) -> None:
    topic = f"job:{job['id']}"
    say(line, op="subscribe", topics=[topic], keep_open=True)
    hear_until(line, lambda message: message["type"] == "snapshot")
    say(line, op="unsubscribe", id=2, topics=[topic])
    assert hear(line)["type"] == "unsubscribed"
    client.post(job["links"]["cancel"])
    say(line, op="subscribe", id=3, topics=["queue"])
    assert not of("event", hear_until(line, lambda message: message["type"] == "snapshot"))


def test_the_tenant_topic_carries_every_job_of_the_tenant_and_no_other(
    line: ClientConnection, job: Job, client: httpx.Client, other: httpx.Client, picture: str
) -> None:
    say(line, op="subscribe", topics=["tenant"])
    snapshot = hear_until(line, lambda message: message["type"] == "snapshot")[-1]
    assert [one["id"] for one in snapshot["data"]] == [job["id"]]
    theirs = other.post("/api/v1/jobs", json=animate(upload(other, png(40, 40)))).json()
    made = client.post("/api/v1/jobs", json=animate(picture)).json()
    client.post(job["links"]["cancel"])
    client.post(made["links"]["cancel"])
    events = []
    while sum(event["event"] == "canceled" for event in events) < 2:
        events += of("event", [hear(line)])
    assert theirs["id"] not in {event["job"] for event in events}
    assert {event["topic"] for event in events} == {"tenant"}
    assert [e["seq"] for e in events if e["job"] == made["id"]] == [1, 2]
    assert [e["seq"] for e in events if e["job"] == job["id"]] == [2]


@pytest.mark.usefixtures("hand")
def test_the_tenant_topic_resumes_by_time(
    api: Api, client: httpx.Client, other: httpx.Client, line: ClientConnection, picture: str
) -> None:
    theirs = animate(upload(other, png(40, 40)))
    say(line, op="subscribe", topics=["tenant"])
    hear_until(line, lambda message: message["type"] == "snapshot")
    first = client.post("/api/v1/jobs", json=animate(picture)).json()
    at = hear_until(line, lambda message: message.get("job") == first["id"])[-1]["at"]
    line.close()
    foreign = other.post("/api/v1/jobs", json=theirs).json()
    missed = client.post("/api/v1/jobs", json=animate(picture)).json()
    with dial(api, client) as again:
        say(again, op="subscribe", topics=["tenant"], after={"tenant": at})
        heard = hear_until(again, lambda message: message.get("job") == missed["id"])
    assert heard[-1]["seq"] == 1
    assert foreign["id"] not in {message.get("job") for message in heard}


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59-12:00", "1969-12-31T23:59:59Z"])
def test_a_time_that_no_event_can_have_ends_the_socket(line: ClientConnection, at: str) -> None:
    say(line, op="subscribe", topics=["tenant"], after={"tenant": at})
    assert close_code(line) == 4400


def test_an_unforeseen_failure_is_logged_once_and_closes_with_1011(
    settings: Settings, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    sent = []

    async def converse() -> None:
        arriving = iter([{"type": "websocket.connect"}])

        async def receive() -> Any:
            try:
                return next(arriving)
            except StopIteration:
                raise LookupError("nobody thought of this") from None

        async def send(message: Any) -> None:
            sent.append(message)

        opened = WebSocket({"type": "websocket"}, receive, send)
        await opened.accept()
        hub = EventHub(settings, db, {})
        parts: Any = SimpleNamespace(hub=hub)
        await Session(opened, parts, None).run()
        await hub.close()

    asyncio.run(converse())
    assert (sent[-1]["type"], sent[-1]["code"]) == ("websocket.close", 1011)
    assert [record.levelname for record in caplog.records if record.name == "framewright.socket"] == ["ERROR"]


def test_the_tenant_topic_carries_no_progress_of_another_tenant(
    line: ClientConnection, client: httpx.Client, other: httpx.Client, picture: str, hand: Hand
) -> None:
    say(line, op="subscribe", topics=["tenant"])
    hear_until(line, lambda message: message["type"] == "snapshot")
    foreign = other.post("/api/v1/jobs", json=animate(upload(other, png(40, 40)))).json()
    theirs = hand.claim()
    own = client.post("/api/v1/jobs", json=animate(picture)).json()
    mine = hand.claim()
    hand.progress(theirs, 0.3)
    hand.progress(mine, 0.3)
    heard = hear_until(line, lambda message: message["type"] == "progress" and message["job"] == own["id"])
    assert foreign["id"] not in {message.get("job") for message in heard}


def test_many_images_are_shortened_wherever_many_jobs_are_shown(
    line: ClientConnection, client: httpx.Client, picture: str, hand: Hand
) -> None:
    body = {"kind": "encode", "input": {"images": [picture] * 12}, "params": {"fps": 4}}
    made = client.post("/api/v1/jobs", json=body).json()
    assert made["input"] == client.get(made["links"]["self"]).json()["input"] == body["input"]
    short = {"images": [picture] * 10, "images_total": 12}
    assert client.get("/api/v1/jobs", params={"limit": 1}).json()["data"][0]["input"] == short
    say(line, op="subscribe", topics=["tenant", f"job:{made['id']}"])
    shown = [hear_until(line, lambda message: message["type"] == "snapshot")[-1]["data"] for _ in range(2)]
    assert [(one[0] if isinstance(one, list) else one)["input"] for one in shown] == [short, short]


def test_boards_show_queues_and_workers(line: ClientConnection, job: Job) -> None:
    say(line, op="subscribe", topics=["queue", "workers"])
    heard: dict[str, Any] = {}
    while len(heard) < 2:
        message = hear(line)
        if message["type"] == "snapshot":
            heard[message["topic"]] = message["data"]
    assert {"name": "cpu", "depth": 1}.items() <= next(one for one in heard["queue"] if one["name"] == "cpu").items()
    assert heard["workers"] == []


def test_previews_come_only_to_those_who_asked(
    api: Api, client: httpx.Client, line: ClientConnection, job: Job, hand: Hand
) -> None:
    topic = f"job:{job['id']}"
    claim = hand.claim()
    with dial(api, client) as plain:
        say(plain, op="subscribe", topics=[topic])
        say(line, op="subscribe", topics=[topic], previews=True)
        hear_until(plain, lambda message: message["type"] == "snapshot")
        hear_until(line, lambda message: message["type"] == "snapshot")
        assert hand.live
        hand.live.preview(claim, b"\xff\xd8picture", "image/jpeg", 32, 24)
        packed: Any = ""
        while isinstance(packed, str):
            packed = line.recv(timeout=30)
        (length,) = struct.unpack(">I", packed[:4])
        head = json.loads(packed[4 : 4 + length])
        assert packed[4 + length :] == b"\xff\xd8picture"
        assert (head["topic"], head["step"], head["mime"], head["w"], head["h"]) == (
            topic,
            "main",
            "image/jpeg",
            32,
            24,
        )
        assert head["seq"]
        client.post(job["links"]["cancel"])
        assert all(isinstance(message, dict) for message in rest(plain))
    preview = client.get(job["links"]["preview"])
    assert (preview.content, preview.headers["content-type"]) == (b"\xff\xd8picture", "image/jpeg")


def test_a_ticket_works_once_on_any_process(second_api: Api, api: Api, client: httpx.Client) -> None:
    once = ticket(client)
    with connect(second_api.socket_url, subprotocols=[f"bearer.{once}"]) as first:  # type: ignore[list-item]
        assert first.subprotocol == f"bearer.{once}"
        assert hear(first)["type"] == "welcome"
    with connect(api.socket_url, subprotocols=[f"bearer.{once}"]) as again:  # type: ignore[list-item]
        assert close_code(again) == 4401


def test_the_first_message_may_bring_the_ticket(api: Api, client: httpx.Client) -> None:
    with connect(api.socket_url, subprotocols=["framewright.v1"]) as line:  # type: ignore[list-item]
        assert line.subprotocol == "framewright.v1"
        say(line, op="auth", ticket=ticket(client))
        welcome = hear(line)
    assert welcome["build"]
    assert welcome["server_time"].endswith("Z")
    assert welcome["session_expires_at"] is None


@pytest.mark.parametrize(
    "first", [{"op": "auth", "ticket": "nonsense"}, {"op": "subscribe", "topics": ["tenant"]}, {"op": "ping"}]
)
def test_nothing_is_said_to_strangers(api: Api, first: dict[str, Any]) -> None:
    with connect(api.socket_url) as line:
        say(line, **first)
        assert rest(line) == []
        assert line.close_code == 4401


def test_a_client_that_brings_no_ticket_is_let_go(api: Api) -> None:
    with connect(api.socket_url) as line:
        assert close_code(line) == 4408


def test_a_ticket_of_a_weak_key_opens_nothing(
    api: Api, make_key: Callable[..., str], client: httpx.Client, job: Job
) -> None:
    with api.client(make_key("default", frozenset({"jobs:read"}))) as weak, dial(api, weak) as line:
        hear(line)
        say(line, op="subscribe", topics=["workers"])
        assert close_code(line) == 4403


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "[]",
        '{"op":"explode"}',
        '{"op":"subscribe"}',
        '{"op":"subscribe","topics":[]}',
        '{"op":"subscribe","topics":["tenant"],"extra":1}',
        '{"op":"subscribe","topics":["tenant"],"topics":["queue"]}',
        '{"op":"ping","id":NaN}',
        '{"op":"ping","id":"\\ud800"}',
        "[" * 5000,
        '{"op":"auth","ticket":"again"}',
    ],
)
def test_a_bad_message_ends_the_socket(line: ClientConnection, text: str) -> None:
    line.send(text)
    assert close_code(line) == 4400


def test_bytes_are_no_messages(line: ClientConnection) -> None:
    line.send(b"{}")
    assert close_code(line) == 4400


def test_a_message_may_be_64_kib(line: ClientConnection) -> None:
    line.send('{"op":"ping","id":"' + "x" * 70_000 + '"}')
    assert close_code(line) == 4413


@pytest.mark.parametrize("topic", ["job:job_" + "0" * 32, "job:nonsense", "nonsense", "tenant:other", "job:"])
def test_an_unknown_topic_ends_the_socket(line: ClientConnection, topic: str) -> None:
    say(line, op="subscribe", topics=[topic])
    assert close_code(line) == 4404


def test_a_foreign_job_is_as_unknown_as_any(api: Api, other: httpx.Client, job: Job) -> None:
    reasons = set()
    for topic in (f"job:{job['id']}", "job:job_" + "0" * 32):
        with dial(api, other) as line:
            hear(line)
            say(line, op="subscribe", topics=[topic], after={topic: 0})
            assert rest(line) == []
            reasons.add((line.close_code, line.close_reason))
    assert reasons == {(4404, "no such topic")}


def test_a_flood_of_messages_ends_the_socket(api: Api, client: httpx.Client) -> None:
    with dial(api, client, max_queue=None) as line:
        with suppress(ConnectionClosed):
            for _ in range(500):
                say(line, op="ping")
        assert close_code(line) == 4429


def test_a_foreign_page_is_refused_before_the_socket_opens(api: Api, client: httpx.Client) -> None:
    with pytest.raises(InvalidStatus) as refused:
        dial(api, client, origin="https://evil.example")
    assert refused.value.response.status_code == 403
    with dial(api, client, origin=api.url) as own:
        assert hear(own)["type"] == "welcome"


def test_a_revoked_key_loses_its_sockets(api: Api, client: httpx.Client) -> None:
    made = client.post("/api/v1/api-keys", json={"name": "short-lived", "scopes": ["jobs:read"]}).json()
    with api.client(made["key"]) as short, dial(api, short) as line:
        hear(line)
        assert client.delete(f"/api/v1/api-keys/{made['id']}").status_code == 204
        assert short.get("/api/v1/jobs").status_code == 401
        assert close_code(line) == 4401


def test_more_sockets_than_allowed_are_turned_away(environment: dict[str, str]) -> None:
    with serve({**environment, "FRAMEWRIGHT_MAX_SOCKETS": "1"}) as small, small.client() as client:
        with dial(small, client) as first:
            hear(first)
            with dial(small, client) as second:
                assert close_code(second) == 1013
            job = "/api/v1/jobs/job_" + "0" * 32
            assert client.get(f"{job}/events").status_code == 404
        until(lambda: "framewright_listeners 0.0" in client.get("/metrics").text)
        with dial(small, client) as third:
            assert hear(third)["type"] == "welcome"


def test_a_restart_tells_clients_to_come_back_and_they_miss_nothing(
    environment: dict[str, str], api: Api, client: httpx.Client, job: Job, hand: Hand
) -> None:
    topic = f"job:{job['id']}"
    with serve(environment) as doomed, ExitStack() as stack:
        lines = [stack.enter_context(dial(doomed, client)) for _ in range(20)]
        for line in lines:
            say(line, op="subscribe", topics=[topic])
            hear_until(line, lambda message: message["type"] == "snapshot")
        os.kill(doomed.process.pid, signal.SIGTERM)
        assert {close_code(line) for line in lines} == {1012}
        assert doomed.process.wait(15) in {0, -signal.SIGTERM}
    hand.fail(hand.claim())
    for _ in lines:
        with dial(api, client) as again:
            say(again, op="subscribe", topics=[topic], after={topic: 1})
            assert [event["seq"] for event in of("event", rest(again))] == [2, 3, 4]


def test_a_client_that_does_not_read_is_cut_off_and_others_hear_everything(
    environment: dict[str, str], client: httpx.Client, job: Job, hand: Hand
) -> None:
    """Its buffer is small and previews fill it; once it reads again, it learns why it was cut off."""
    topic = f"job:{job['id']}"
    claim = hand.claim()
    with serve(environment) as own, own.client() as there:
        small = socket.create_connection(("127.0.0.1", int(own.url.rsplit(":", 1)[1])))
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        with dial(own, there, sock=small, max_queue=1, close_timeout=0) as deaf, dial(own, there) as good:
            say(deaf, op="subscribe", topics=[topic], previews=True)
            say(good, op="subscribe", topics=[topic])
            hear_until(good, lambda message: message["type"] == "snapshot")

            def flooded() -> bool:
                assert hand.live
                hand.live.preview(claim, os.urandom(900_000), "image/jpeg", 32, 24)
                return "framewright_listeners 1.0" in there.get("/metrics").text

            until(flooded, 90)
            with suppress(ConnectionClosed):
                while True:
                    deaf.recv(timeout=30)
            assert deaf.close_code == 4429
            there.post(f"{own.url}/api/v1/jobs/{job['id']}/cancel")
            assert of("event", rest(good))[-1]["event"] == "canceled"
