"""Following one job by server-sent events: nothing lost, nothing twice, and an end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hand import ETA, Hand
from service import Api, animate
from waiting import until

from framewright.database import Database


def messages(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """Events as the standard has them: fields up to an empty line; comments are left out."""
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        if not line and "data" in fields:
            yield {"id": fields.get("id"), "event": fields["event"], "data": json.loads(fields["data"])}
        if not line:
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")


def follow(client: httpx.Client, job: dict[str, Any], **headers: str) -> list[dict[str, Any]]:
    with client.stream("GET", job["links"]["events"], headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        return list(messages(answer))


@pytest.fixture
def job(client: httpx.Client, picture: str, hand: Hand) -> dict[str, Any]:
    made: dict[str, Any] = client.post("/api/v1/jobs", json=animate(picture)).json()
    return made


def test_a_job_is_followed_from_its_first_event_to_its_last(
    client: httpx.Client, job: dict[str, Any], hand: Hand, tmp_path: Path
) -> None:
    seen = []
    with client.stream("GET", job["links"]["events"]) as answer:
        for message in messages(answer):
            seen.append(message)
            if message["event"] == "queued":
                claim = hand.claim()
            elif message["event"] == "step_started":
                hand.progress(claim, 0.5)
            elif message["event"] == "progress" and message["data"]["data"]["fraction"] == 0.5:
                told = client.get(job["links"]["self"]).json()
                assert told["eta"] == message["data"]["data"]["eta"] == ETA.as_json()
                hand.complete(claim, tmp_path)
    assert client.get(job["links"]["self"]).json()["eta"] is None
    durable = [message for message in seen if message["id"]]
    assert [int(message["id"]) for message in durable] == list(range(1, len(durable) + 1))
    assert [message["event"] for message in durable] == ["queued", "step_started", "step_succeeded", "succeeded"]
    assert all(message["id"] is None for message in seen if message["event"] == "progress")


def test_a_client_resumes_after_the_last_event_it_saw(
    client: httpx.Client, job: dict[str, Any], hand: Hand, tmp_path: Path
) -> None:
    hand.complete(hand.claim(), tmp_path)
    whole = follow(client, job)
    rest = follow(client, job, **{"Last-Event-ID": "2"})
    assert [message["id"] for message in rest] == ["3", "4"]
    assert rest == whole[2:]
    with client.stream("GET", job["links"]["events"], params={"after": 3}) as answer:
        assert [message["id"] for message in messages(answer)] == ["4"]


def test_a_client_that_has_seen_the_end_is_told_to_stop(
    client: httpx.Client, job: dict[str, Any], hand: Hand, tmp_path: Path
) -> None:
    hand.complete(hand.claim(), tmp_path)
    assert client.get(job["links"]["events"], headers={"Last-Event-ID": "4"}).status_code == 204


def test_a_job_whose_log_is_gone_still_ends_its_stream(
    client: httpx.Client, job: dict[str, Any], hand: Hand, db: Database
) -> None:
    client.post(job["links"]["cancel"])
    with db.connect() as connection:
        connection.execute("DELETE FROM events WHERE job_id = %s", (job["id"].removeprefix("job_"),))
    assert [message["event"] for message in follow(client, job)] == ["canceled"]


def test_any_process_follows_any_job(second_api: Api, client: httpx.Client, job: dict[str, Any], hand: Hand) -> None:
    with second_api.client() as elsewhere:
        url = f"{second_api.url}/api/v1/jobs/{job['id']}/events"
        with elsewhere.stream("GET", url) as answer:
            found = []
            for message in messages(answer):
                found.append(message["event"])
                if message["event"] == "queued":
                    client.post(job["links"]["cancel"])
    assert found == ["queued", "canceled"]


def test_a_lost_poke_costs_seconds_and_not_the_event(
    client: httpx.Client, job: dict[str, Any], settings: Any, db: Database, tmp_path: Path
) -> None:
    silent = Hand(settings, db, live=False)
    with client.stream("GET", job["links"]["events"]) as answer:
        found = []
        for message in messages(answer):
            found.append(message["event"])
            if message["event"] == "queued":
                silent.complete(silent.claim(), tmp_path)
    assert found == ["queued", "step_started", "step_succeeded", "succeeded"]


def test_a_client_that_leaves_is_forgotten(client: httpx.Client, job: dict[str, Any]) -> None:
    with client.stream("GET", job["links"]["events"]) as answer:
        stream = messages(answer)
        assert next(stream)["event"] == "queued"
        assert "framewright_listeners 1.0" in client.get("/metrics").text
    until(lambda: "framewright_listeners 0.0" in client.get("/metrics").text)


def test_progress_never_falls_and_stays_below_one(
    client: httpx.Client, picture: str, hand: Hand, tmp_path: Path
) -> None:
    step = {"kind": "animate", "input": {"image": picture}, "params": {"seconds": 1, "fps": 4}}
    steps = [{"name": "one", **step}, {"name": "two", **step, "after": ["one"]}]
    answer = client.post("/api/v1/jobs", json={"kind": "pipeline", "steps": steps})
    assert answer.status_code == 201, answer.text
    job = answer.json()
    fractions = []
    with client.stream("GET", job["links"]["events"]) as answer:
        for message in messages(answer):
            if message["event"] in {"queued", "step_succeeded"} and len(fractions) < 2:
                claim = hand.claim()
            if message["event"] == "step_started":
                hand.progress(claim, 0.9)
            if message["event"] == "progress":
                fractions.append(message["data"]["data"]["fraction"])
                hand.complete(claim, tmp_path)
    assert fractions == [0.45, 0.95]
