"""Doorbells are dropped, doubled, reordered, forged and taken to the wrong door: the outcome of every job is the same.

A doorbell says nothing, so those of one queue are all alike and their order is nothing that could change. What could
matter is how many there are and where they lie.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable

import redis
from house import TERMINAL, House
from waiting import until

QUEUES = ("gpu", "enhance", "encode", "encode.hw", "cpu")
CROWD = 50
"""What is doubled again and again doubles no more than so many at a time, or it would fill the memory."""


def doorbell_lists(broker: redis.Redis) -> dict[bytes, list[bytes]]:
    """The broker's lists of doorbells, whatever their prefix, and what is in them."""
    found = {}
    for key in broker.scan_iter("*"):
        if key.split(b":")[-1].decode() in QUEUES and broker.type(key) == b"list":
            found[key] = broker.lrange(key, 0, -1)
    return found


def tamper(broker: redis.Redis, how: str) -> int:
    """Does one bad thing to the lists of doorbells; returns how many messages it touched."""
    lists = doorbell_lists(broker)
    for key, messages in lists.items():
        if how in {"drop", "wrong queue"}:
            broker.delete(key)
        if how == "double and reorder" and messages:
            mixed = messages + messages[:CROWD]
            random.shuffle(mixed)
            broker.pipeline().delete(key).lpush(key, *mixed).execute()
        if how == "wrong queue":
            # Also to queues that nobody listens to.
            prefix, _, own = key.decode().rpartition(":")
            others = [queue for queue in QUEUES if queue != own]
            for message in messages:
                broker.lpush(f"{prefix}:{random.choice(others)}", message)
    return sum(map(len, lists.values()))


def says(message: bytes) -> object:
    """What a doorbell tells a worker: positional and named arguments."""
    positional, named, _ = json.loads(base64.b64decode(json.loads(message)["body"]))
    return positional, named


def test_a_doorbell_says_nothing_so_that_there_is_no_order_to_keep(build: Callable[..., House]) -> None:
    house = build(workers=0)
    for _ in range(5):
        house.submit(frames=4)
    with redis.Redis.from_url(house.system.servers.redis_url, socket_timeout=60) as broker:
        lists = until(lambda: doorbell_lists(broker))
    messages = [message for found in lists.values() for message in found]
    assert [says(message) for message in messages] == [([], {})] * len(messages)


def test_no_outcome_depends_on_the_order_or_the_arrival_of_a_doorbell(build: Callable[..., House]) -> None:
    house = build(workers=2)
    workers = [house.system.services[name] for name in ("worker", "worker-2")]
    outcomes: dict[str, list[tuple[str, list[str]]]] = {}
    with redis.Redis.from_url(house.system.servers.redis_url, socket_timeout=60) as broker:
        for how in ("leave", "drop", "double and reorder", "wrong queue"):
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
