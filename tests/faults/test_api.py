"""API processes that die: clients resume where they were, and the same key brings back the same job."""

from __future__ import annotations

import json
import os
import signal
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from house import TERMINAL, House
from waiting import until
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect


class Watcher:
    """A socket client as a page would be: subscribes, notes every event, and resumes after its last `seq`."""

    def __init__(self, house: House, job: str) -> None:
        self._house, self._job = house, job
        self.seqs: list[int] = []
        self.ended = False
        self.reconnects = -1

    def run(self) -> None:
        """Returns when the terminal event has arrived."""
        while not self.ended:
            self.reconnects += 1
            try:
                with self._open() as socket:
                    self._listen(socket)
            except (WebSocketException, OSError, httpx.HTTPError, EOFError):
                until(self._reachable)

    def _open(self) -> ClientConnection:
        ticket = self._house.http.post("/api/v1/ws-tickets").raise_for_status().json()["ticket"]
        url = self._house.system.url.replace("http", "ws") + "/api/v1/ws"
        return connect(url, subprotocols=[f"bearer.{ticket}"], open_timeout=20, proxy=None)  # type: ignore[list-item]

    def _listen(self, socket: ClientConnection) -> None:
        topic = f"job:{self._job}"
        seen = self.seqs[-1] if self.seqs else 0
        socket.send(json.dumps({"op": "subscribe", "id": 1, "topics": [topic], "after": {topic: seen}}))
        for message in socket:
            self._note(json.loads(message))
            if self.ended:
                return

    def _note(self, message: dict[str, Any]) -> None:
        if message["type"] == "event":
            self.seqs.append(message["seq"])
            self.ended = message["event"] in TERMINAL

    def _reachable(self) -> bool:
        try:
            return self._house.http.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False


def test_a_hundred_sockets_resume_without_a_missing_or_doubled_event(build: Callable[..., House]) -> None:
    house = build(workers=2)
    jobs = [house.submit(frames=4, steps=150, step_ms=60, raise_at=100) for _ in range(2)]
    watchers = [Watcher(house, jobs[index % 2]) for index in range(100)]
    with ThreadPoolExecutor(100) as pool:
        running = [pool.submit(watcher.run) for watcher in watchers]
        until(lambda: all(watcher.seqs for watcher in watchers))
        os.kill(house.system.services["api"].pid, signal.SIGKILL)  # it comes back by itself
        for one in running:
            one.result(timeout=150)
    assert min(watcher.reconnects for watcher in watchers) >= 1
    for watcher in watchers:
        assert watcher.seqs == list(range(1, watcher.seqs[-1] + 1))
    for job in jobs:
        assert len(house.events(job)) == watchers[jobs.index(job)].seqs[-1]


def test_the_same_key_brings_the_same_job_when_the_reply_was_lost(build: Callable[..., House]) -> None:
    house = build(workers=0)
    body = {"kind": "animate", "model": "scripted", "params": {"frames": 4}}
    for _ in range(5):
        key = uuid.uuid4().hex
        api = house.system.services["api"]
        asked = threading.Event()

        def ask(key: str = key, asked: threading.Event = asked) -> None:
            asked.set()
            try:
                house.post(body, key=key)
            except httpx.HTTPError:
                return

        before = house.sql("SELECT count(*) AS n FROM jobs")[0]["n"]
        with house.client(house.system.url) as other, ThreadPoolExecutor(1) as pool:
            pool.submit(ask)
            # The row is visible the moment the commit is; the reply is still on its way through the process.
            until(lambda before=before: house.sql("SELECT count(*) AS n FROM jobs")[0]["n"] > before)
            os.kill(api.pid, signal.SIGKILL)
            made = house.sql("SELECT id FROM jobs ORDER BY created_at DESC LIMIT 1")[0]["id"]
            until(lambda other=other: _ready(other))
            again = other.post("/api/v1/jobs", json=body, headers={"Idempotency-Key": key})
        assert again.status_code == 201, again.text
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.json()["id"] == f"job_{made.hex}"
        assert house.sql("SELECT count(*) AS n FROM jobs")[0]["n"] == before + 1


def _ready(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx.HTTPError:
        return False
