"""Doorbells are dropped, doubled, forged and reordered: the outcome of every job is the same."""

from __future__ import annotations

import random
from collections.abc import Callable

import redis
from house import TERMINAL, House
from waiting import until

QUEUES = ("gpu", "enhance", "encode", "encode.hw", "cpu")


def doorbell_lists(broker: redis.Redis) -> list[bytes]:
    """The broker's lists of doorbells, whatever their prefix."""
    return [
        key for key in broker.scan_iter("*") if broker.type(key) == b"list" and key.split(b":")[-1].decode() in QUEUES
    ]


def tamper(broker: redis.Redis, how: str) -> int:
    """Does one bad thing to every list of doorbells; returns how many messages it touched."""
    touched = 0
    for key in doorbell_lists(broker):
        messages = broker.lrange(key, 0, -1)
        touched += len(messages)
        if how == "drop":
            broker.delete(key)
        elif how == "double" and messages:
            broker.lpush(key, *messages)
        elif how == "reorder" and messages:
            random.shuffle(messages)
            broker.pipeline().delete(key).lpush(key, *messages).execute()
    return touched


def test_no_outcome_depends_on_the_order_or_the_arrival_of_a_doorbell(build: Callable[..., House]) -> None:
    house = build(workers=2)
    workers = [house.system.services[name] for name in ("worker", "worker-2")]
    outcomes: dict[str, list[tuple[str, list[str]]]] = {}
    with redis.Redis.from_url(house.system.servers.redis_url, socket_timeout=60) as broker:
        for how in ("leave", "drop", "double", "reorder"):
            # Nobody listens at first, so that there is something to tamper with for sure.
            for worker in workers:
                worker.stop()
            jobs = [house.submit(frames=4, steps=2, step_ms=5) for _ in range(8)]
            assert until(lambda how=how: tamper(broker, how)) > 0
            for worker in workers:
                worker.start()
            until(lambda how=how, jobs=jobs: _all_ended(house, broker, how, jobs))
            outcomes[how] = [(house.succeeded(job)["status"], house.outcomes(job)) for job in jobs]
    assert outcomes["leave"] == [("succeeded", ["succeeded"])] * 8
    assert all(outcomes[how] == outcomes["leave"] for how in outcomes)


def _all_ended(house: House, broker: redis.Redis, how: str, jobs: list[str]) -> bool:
    tamper(broker, how)
    return all(house.job(job)["status"] in TERMINAL for job in jobs)


def test_a_garbled_message_takes_no_worker_away_for_good(build: Callable[..., House]) -> None:
    house = build(workers=1)
    with redis.Redis.from_url(house.system.servers.redis_url, socket_timeout=60) as broker:
        house.succeeded(house.submit(frames=4, steps=1))
        prefix = "fw:"
        for queue in QUEUES:
            broker.lpush(f"{prefix}{queue}", b"this is no message", b"{}", b'{"body": "W10=", "headers": {}}')
        for _ in range(3):
            house.succeeded(house.submit(frames=4, steps=1))
        until(
            lambda: all(row["alive"] for row in house.http.get("/api/v1/workers").json()["data"] if row.get("queues"))
        )
