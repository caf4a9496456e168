"""Doorbells: one says "look for work", never which. Workers hear them with Celery; ringing takes a Redis client."""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from typing import Any, Final

import redis
from redis.exceptions import RedisError

from framewright.errors import BrokerUnavailable
from framewright.redis_options import redis_options
from framewright.settings import Settings

RING: Final = "framewright.ring"
"""Name of the doorbell task; it takes no arguments."""
QUEUES: Final = ("gpu", "enhance", "encode", "encode.hw", "cpu")
MAX_DOORBELLS: Final = 64
"""No queue holds more doorbells than this: each one woken worker claims until nothing is left."""
IDLE_S: Final = 30.0
PACE_S: Final = 0.02
"""Pause after a round of ringing, in which further calls add up."""
_NO_ARGUMENTS: Final = "W1tdLCB7fSwge31d"
"""`[[], {}, {}]`: arguments, keywords and what to do afterwards, as Celery sends them."""
_log = logging.getLogger(__name__)


def doorbell(queue: str) -> dict[str, Any]:
    """A message of Celery's protocol 2 (docs.celeryq.dev, internals/protocol) for the doorbell task.

    The same for every ring of a queue but for its number, which means nothing.
    """
    number = str(uuid.uuid4())
    return {
        "body": _NO_ARGUMENTS,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {
            "lang": "py",
            "task": RING,
            "id": number,
            "root_id": number,
            "argsrepr": "()",
            "kwargsrepr": "{}",
            "retries": 0,
            "timelimit": [None, None],
            "ignore_result": True,
        },
        "properties": {
            "correlation_id": number,
            "delivery_tag": number,
            "delivery_mode": 1,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "body_encoding": "base64",
            "priority": 0,
        },
    }


class Ringer:
    """Rings for queues over one connection of its own, which is closed after 30 s of silence.

    The first of many calls rings at once, the others together `PACE_S` later: a burst of submits costs few round trips.
    Celery's own `send_task` would cost more than the whole submit.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = settings.redis_url.get_secret_value()
        self._prefix = settings.redis_prefix
        self._using = threading.Lock()
        self._redis: redis.Redis | None = None
        self._changed = threading.Condition()
        self._wanted: dict[str, int] = {}
        self._closing = False
        self._thread: threading.Thread | None = None

    def ring(self, queue: str, n: int = 1) -> None:
        """Rings soon, from a thread. Never raises, never waits for Redis; calls that meet are added up."""
        if queue not in QUEUES or n < 1:
            _log.warning("nothing to ring for: queue %r, n %d", queue, n)
            return
        with self._changed:
            if self._closing:
                return
            self._wanted[queue] = min(MAX_DOORBELLS, self._wanted.get(queue, 0) + n)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ringer", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def ring_now(self, queue: str, n: int = 1) -> int:
        """Tops the queue up to `n` doorbells (at most 64), says how many it sent; `BrokerUnavailable` within 10 s."""
        if queue not in QUEUES:
            raise ValueError(f"no such queue: {queue}")
        with self._using:
            try:
                return self._top_up(queue, min(n, MAX_DOORBELLS))
            except (RedisError, OSError) as error:
                self._hang_up()
                raise BrokerUnavailable(f"Redis does not answer: {type(error).__name__}", retry_after_s=1) from error

    def close(self, timeout_s: float = 2.0) -> None:
        """Rings what waits if Redis takes it within `timeout_s`, then hangs up."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
        if self._using.acquire(timeout=timeout_s):
            try:
                self._hang_up()
            finally:
                self._using.release()

    def _top_up(self, queue: str, wanted: int) -> int:
        if self._redis is None:
            self._redis = redis.Redis.from_url(self._url, single_connection_client=True, **redis_options("ringer"))
        # Where kombu's Redis transport keeps a queue of the lowest priority.
        key = f"{self._prefix}{queue}"
        missing = max(0, wanted - int(self._redis.llen(key)))
        if missing:
            self._redis.lpush(key, *(json.dumps(doorbell(queue)) for _ in range(missing)))
        return missing

    def _hang_up(self) -> None:
        if self._redis is not None:
            gone, self._redis = self._redis, None
            gone.close()

    def _run(self) -> None:
        pause_s = 0.0
        while wanted := self._take(pause_s):
            pause_s = PACE_S
            for queue, n in wanted.items():
                try:
                    self.ring_now(queue, n)
                except BrokerUnavailable as error:
                    pause_s = self._failed(queue, n, error)

    def _failed(self, queue: str, n: int, error: BrokerUnavailable) -> float:
        _log.info("doorbell for %s waits: %s", queue, error.detail)
        with self._changed:
            if not self._closing:
                self._wanted[queue] = min(MAX_DOORBELLS, self._wanted.get(queue, 0) + n)
        return 1.0

    def _take(self, pause_s: float) -> dict[str, int]:
        """Waits for queues to ring for; an empty answer means closed."""
        resume = time.monotonic() + pause_s
        with self._changed:
            while not self._closing and (wait_s := resume - time.monotonic()) > 0:
                self._changed.wait(wait_s)
            asked = self._changed.wait_for(lambda: self._wanted or self._closing, IDLE_S)
        if not asked:
            with self._using:
                self._hang_up()
        with self._changed:
            self._changed.wait_for(lambda: self._wanted or self._closing)
            wanted, self._wanted = self._wanted, {}
            return wanted
