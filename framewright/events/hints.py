"""The worker's ear for hints: one pub/sub connection that says "renew this job now", best effort."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import redis
from redis.exceptions import RedisError

from framewright.errors import BrokerUnavailable
from framewright.events import wire
from framewright.redis_options import SOCKET_TIMEOUT_S, redis_options
from framewright.settings import Settings

PING_S: Final = 30.0
"""A silent connection is asked this often whether it still lives, and dropped when it does not answer."""
_WAKE_S: Final = 0.5
_log = logging.getLogger(__name__)


class HintListener:
    """Calls `on_job` in its own thread for each hint. A lost hint costs nothing but time: the next renewal hears.

    Holds one connection and makes a new one, with growing pauses up to 5 s, whenever Redis goes.
    """

    def __init__(self, settings: Settings, on_job: Callable[[UUID], None]) -> None:
        self._settings = settings
        self._on_job = on_job
        self._stop = threading.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hint-listener", daemon=True)

    def start(self) -> None:
        """Starts listening; Redis need not be there yet."""
        self._thread.start()

    def wait_ready(self, timeout_s: float) -> bool:
        """Whether the subscription stands within `timeout_s`."""
        return self._listening.wait(timeout_s)

    def close(self, timeout_s: float = 2.0) -> None:
        """Stops listening; safe to call twice and before `start`."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        pause_s = 0.1
        while not self._stop.is_set():
            try:
                self._listen()
            except (RedisError, OSError, BrokerUnavailable) as error:
                pause_s = 0.1 if self._listening.is_set() else min(5.0, pause_s * 2)
                self._listening.clear()
                _log.info("hints pause, Redis does not answer: %s", type(error).__name__)
                self._stop.wait(pause_s)

    def _listen(self) -> None:
        client: Any = redis.Redis.from_url(self._settings.redis_url.get_secret_value(), **redis_options("hints"))
        ear = client.pubsub()
        try:
            ear.subscribe(wire.hint_channel(self._settings))
            heard = time.monotonic()
            asked = False
            while not self._stop.is_set():
                message = ear.get_message(timeout=_WAKE_S)
                now = time.monotonic()
                if message is not None:
                    heard, asked = now, False
                    self._handle(message)
                elif asked and now - heard > PING_S + SOCKET_TIMEOUT_S:
                    raise BrokerUnavailable("Redis did not answer a ping")
                elif not asked and now - heard > PING_S:
                    ear.ping()
                    asked = True
        finally:
            ear.close()
            client.close()

    def _handle(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            self._listening.set()
        if message["type"] != "message":
            return
        try:
            job_id = UUID(hex=json.loads(message["data"])["job"])
        except (KeyError, TypeError, ValueError, AttributeError):
            return
        try:
            self._on_job(job_id)
        except Exception:  # noqa: BLE001 - the callback is not ours, and the ear must outlive it
            _log.exception("a hint could not be followed")
