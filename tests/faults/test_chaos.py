"""Three hundred jobs while everything is killed and stopped: each ends exactly once, every success is its own."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest
import redis
from house import TERMINAL, House
from waiting import until

JOBS = 300
CHAOS_S = 120
SEED = 20261120


class Chaos:
    """Hurts one thing after another until told to stop; every hurt heals within seconds."""

    def __init__(self, house: House, seed: int) -> None:
        self._house = house
        self._random = random.Random(seed)
        self.done: Counter[str] = Counter()

    @property
    def hurts(self) -> list[Callable[[threading.Event], None]]:
        """All it can do; each comes as often as it is named before any comes again."""
        workers = [self._runner, self._runner, self._worker, self._freeze, self._drain]
        return [*workers, self._api, self._broker, self._flush, self._database, self._storage]

    def run(self, over: threading.Event) -> None:
        while not over.is_set():
            for hurt in self._random.sample(self.hurts, len(self.hurts)):
                if over.is_set():
                    return
                try:
                    hurt(over)
                    self.done[hurt.__name__] += 1
                except (psutil.Error, ProcessLookupError, redis.RedisError):
                    pass  # it was already gone, by an earlier hurt
                over.wait(self._random.uniform(0.5, 2.5))

    def _a_worker(self) -> Any:
        services = self._house.system.services
        return services[self._random.choice([name for name in services if name.startswith("worker")])]

    def _runner(self, _over: threading.Event) -> None:
        children = psutil.Process(self._a_worker().pid).children(recursive=True)
        runners = [one for one in children if "workers.runner" in one.cmdline()]
        for runner in runners:
            os.kill(runner.pid, signal.SIGKILL)

    def _worker(self, _over: threading.Event) -> None:
        worker = self._a_worker()
        worker.kill()
        worker.start()

    def _freeze(self, over: threading.Event) -> None:
        worker = self._a_worker()
        worker.pause()
        over.wait(self._random.uniform(1, 6))
        worker.resume()

    def _drain(self, _over: threading.Event) -> None:
        worker = self._a_worker()
        worker.restart()

    def _broker(self, _over: threading.Event) -> None:
        self._house.system.servers.valkey.kill()
        self._house.system.servers.valkey.restart(empty=True)

    def _flush(self, _over: threading.Event) -> None:
        with redis.Redis.from_url(self._house.system.servers.redis_url) as broker:
            broker.flushall()

    def _database(self, over: threading.Event) -> None:
        """A restart, which ends every session; after the first one a hang."""
        postgres = self._house.system.servers.postgres
        if not self.done["_database"]:
            postgres.restart()
            return
        postgres.pause()
        over.wait(self._random.uniform(1, 4))
        postgres.resume()

    def _storage(self, over: threading.Event) -> None:
        s3 = self._house.system.servers.s3
        s3.pause()
        over.wait(self._random.uniform(1, 6))
        s3.resume()

    def _api(self, _over: threading.Event) -> None:
        os.kill(self._house.system.services["api"].pid, signal.SIGKILL)


def submitted(house: House, number: int) -> str:
    """A job accepted under a key of its own, asked for until the API answers."""
    body = {
        "kind": "animate",
        "model": "scripted",
        "params": {"frames": 4 + number % 5, "steps": 4, "step_ms": number % 7 * 20, "size": "256x128"},
    }
    answers: list[str] = []

    def ask() -> bool:
        try:
            answer = house.post(body, key=f"chaos-{number}")
        except httpx.HTTPError:
            return False
        if answer.status_code == 201:
            answers.append(answer.json()["id"])
        return bool(answers)

    until(ask, deadline_s=120)
    return answers[0]


@pytest.mark.timeout(600)
def test_three_hundred_jobs_under_chaos(build: Callable[..., House]) -> None:
    house = build(workers=3, reconcilers=2)
    over = threading.Event()
    chaos = Chaos(house, SEED)
    ends_at = time.monotonic() + CHAOS_S
    with ThreadPoolExecutor(2) as pool:
        hurting = pool.submit(chaos.run, over)
        try:
            jobs = [submitted(house, number) for number in range(JOBS)]
            until(lambda: time.monotonic() >= ends_at or hurting.done(), deadline_s=CHAOS_S + 60)
        finally:
            over.set()
        hurting.result(timeout=60)
    assert sum(chaos.done.values()) >= 20, chaos.done
    assert set(chaos.done) == {hurt.__name__ for hurt in chaos.hurts}, "nothing was left out"
    assert len(set(jobs)) == JOBS
    until(lambda: house.sql("SELECT count(*) AS n FROM jobs WHERE finished_at IS NULL")[0]["n"] == 0, deadline_s=300)
    until(lambda: _answers(house))

    statuses = Counter(house.job(job)["status"] for job in jobs)
    assert set(statuses) <= TERMINAL
    for job in jobs:
        events = house.events(job)
        assert sum(event["type"] in TERMINAL for event in events) == 1
        answer = house.job(job)
        if answer["status"] == "succeeded":
            house.succeeded(job)
            assert house.artifacts(job)
        else:
            assert (answer["status"], answer["error"]["code"]) == ("failed", "poison"), answer["error"]
    assert statuses["succeeded"] >= JOBS * 0.9, statuses
    assert (
        house.sql("SELECT count(*) AS n FROM artifacts r JOIN attempts a USING (fence) WHERE a.outcome <> 'succeeded'")[
            0
        ]["n"]
        == 0
    )


def _answers(house: House) -> bool:
    try:
        return house.http.get("/readyz").status_code == 200
    except httpx.HTTPError:
        return False
