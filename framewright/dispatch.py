"""Doorbells: the Celery app they travel through and the ringer. A doorbell says "look for work", never which."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from typing import Any, Final

from celery import Celery
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from framewright.broker import RING, TRANSPORT, Attention
from framewright.errors import BrokerUnavailable
from framewright.settings import Settings

QUEUES: Final = ("gpu", "enhance", "encode", "encode.hw", "cpu")
MAX_DOORBELLS: Final = 64
"""No queue holds more doorbells than this: each one woken worker claims until nothing is left."""
IDLE_S: Final = 30.0
PACE_S: Final = 0.02
"""Pause after a round of ringing, in which further calls add up."""
__all__ = ["QUEUES", "RING", "Ringer", "celery_app"]
_log = logging.getLogger(__name__)


def celery_app(settings: Settings) -> Any:
    """The Celery app of workers and ringers (`celery.Celery`, which ships no types).

    Start workers with `-P threads -c 1 --without-gossip --without-mingle --without-heartbeat`.
    """
    url = settings.redis_url.get_secret_value()
    app = Celery("framewright", broker=url, set_as_current=False, fixups=[])
    app.conf.update(
        # Authority lives in Postgres, so a redelivered doorbell would be meaningless.
        task_acks_late=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        result_backend=None,
        task_serializer="json",
        result_serializer="json",
        event_serializer="json",
        accept_content=["json"],
        task_queues={name: {"routing_key": name} for name in QUEUES},
        task_default_queue="cpu",
        task_create_missing_queues=False,
        task_publish_retry=False,
        task_send_sent_event=False,
        # A busy worker leaves doorbells for its neighbours.
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_detect_quorum_queues=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_transport=TRANSPORT,
        # kombu would speak TLS to a `rediss` URL without looking at the certificate.
        broker_use_ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED} if url.startswith("rediss:") else None,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        # Workers outlive any outage of Redis: they claim without doorbells.
        broker_connection_max_retries=None,
        broker_connection_timeout=3,
        # Without socket_timeout a half-open or hung Redis blocks a publish for ever.
        broker_transport_options={
            "socket_timeout": 5,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "global_keyprefix": settings.redis_prefix,
            # Nothing is lost with a doorbell, so nobody keeps a copy until a worker has answered it.
            "ack_emulation": False,
            # One list per queue instead of four, asked every 3 s instead of every second: a tenth of the idle bytes.
            "priority_steps": [0],
            "polling_interval": 3,
        },
    )
    app.steps["consumer"].add(Attention)
    return app


class Ringer:
    """Rings for queues over one connection of its own, which is closed after 30 s of silence.

    The first of many calls rings at once, the others together `PACE_S` later: a burst of submits costs few round trips.
    """

    def __init__(self, settings: Settings) -> None:
        self._app = celery_app(settings)
        self._using = threading.Lock()
        self._connection: Any = None
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
            except (RedisError, KombuError, OSError) as error:
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
        if self._connection is None:
            # kombu would otherwise try to connect for ever.
            self._connection = self._app.connection_for_write(transport_options={"max_retries": 0})
        channel = self._connection.default_channel
        # Declaring costs Redis nothing and counts the messages of every priority.
        waiting = channel.queue_declare(queue=queue, auto_delete=False).message_count
        missing: int = max(0, wanted - waiting)
        producer = self._app.amqp.Producer(channel, auto_declare=False)
        for _ in range(missing):
            self._app.send_task(RING, queue=queue, producer=producer, retry=False, declare=[], ignore_result=True)
        return missing

    def _hang_up(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.collect(socket_timeout=1)

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
