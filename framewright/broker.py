"""What a worker of ours needs of Celery beyond its settings: doorbells that cannot be forged, and no deaf second."""

from __future__ import annotations

import logging
from typing import Any, Final

from celery import bootsteps
from celery.signals import task_postrun
from kombu.transport import redis

from framewright.doorbells import RING, doorbell

TRANSPORT: Final = "framewright.broker:Transport"
_LOOKS_S: Final = (0.001, 0.01, 0.1, 0.4)
_log = logging.getLogger(__name__)


class Channel(redis.Channel):
    """Drops list items that are not JSON; stock kombu stops the worker, and its running job with it."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, RecursionError) as error:
            _log.warning("an unreadable message was dropped: %s", type(error).__name__)
            return True


class Transport(redis.Transport):
    """Hands on that a doorbell rang, and nothing of what was written on it.

    Celery acts on a dozen fields of a message (times, limits, callbacks, reply queues), and several values of them
    stop a worker or make it deaf for good. A doorbell needs none, so each is made anew here.
    """

    Channel = Channel

    def _deliver(self, message: object, queue: str) -> None:
        headers = message.get("headers") if isinstance(message, dict) else None
        if isinstance(headers, dict) and headers.get("task") == RING:
            super()._deliver(doorbell(queue), queue)  # type: ignore[no-untyped-call]
        else:
            _log.warning("a message that is no doorbell was dropped")


class Attention(bootsteps.StartStopStep):  # type: ignore[misc]
    """Makes a worker listen again as soon as a task ends.

    With `worker_disable_prefetch` and a pool of threads nothing wakes Celery's loop when a task ends, so a doorbell
    that rang meanwhile would wait for the loop's next timer: up to a second, after every round.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Called anew for each connection, because each has a loop of its own."""
        self._loop = consumer.hub
        task_postrun.connect(self._look_again, weak=False, dispatch_uid="framewright.broker.Attention")

    def stop(self, _consumer: Any) -> None:
        task_postrun.disconnect(dispatch_uid="framewright.broker.Attention")

    def _look_again(self, **_: Any) -> None:
        # This runs just before the task counts as ended, so the loop looks a moment later, and again in case of load.
        for delay_s in _LOOKS_S:
            self._loop.call_soon(self._loop.call_later, delay_s, _nothing)


def _nothing() -> None:
    pass
