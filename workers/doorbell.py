"""The worker's ear: a Celery consumer in a thread, which may come, go and fail without the supervisor minding."""

from __future__ import annotations

import logging
import threading
from typing import Any, Final

from celery import signals
from celery.worker import state as celery_state

from framewright.doorbells import RING, Ringer
from framewright.settings import Settings
from workers.supervisor import Supervisor

RESTART_S: Final = 1.0
OPTIONS: Final = {
    "pool": "threads",
    "concurrency": 1,
    "without_gossip": True,
    "without_mingle": True,
    "without_heartbeat": True,
}
"""What `-P threads -c 1 --without-gossip --without-mingle --without-heartbeat` says on a command line."""
_log = logging.getLogger(__name__)


def attach(app: Any, supervisor: Supervisor, ringer: Ringer) -> None:
    """Registers the doorbell task, which hands over to the supervisor and lasts as long as the round it starts."""

    @app.task(name=RING, bind=True, ignore_result=True)  # type: ignore[untyped-decorator]
    def ring(task: Any) -> None:
        queue = (task.request.delivery_info or {}).get("routing_key", "")
        supervisor.answer(lambda: ringer.ring(queue))


class Ear:
    """Listens for doorbells of `settings.queues` from `start` to `close`; starts again whatever Redis sends or does."""

    def __init__(self, app: Any, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="celery", daemon=True)

    def start(self) -> None:
        """Starts listening; Redis need not be there yet."""
        self._thread.start()

    def close(self, timeout_s: float) -> bool:
        """Stops listening once the doorbell in hand is answered; False if that takes longer than `timeout_s`."""
        self._closed.set()
        celery_state.should_stop = 0
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._listen()
            except Exception:  # noqa: BLE001 - a bug of the broker's client must not deafen us for good
                _log.exception("the doorbell consumer failed")
            if not self._closed.wait(RESTART_S):
                _log.warning("the doorbell consumer ended; starting it again")
                celery_state.should_stop = celery_state.should_terminate = None

    def _listen(self) -> None:
        worker = self._app.WorkController(
            app=self._app,
            hostname=f"framewright@{self._settings.worker_name or 'worker'}",
            queues=list(self._settings.queues),
            pool_cls=OPTIONS["pool"],
            loglevel=self._settings.log_level,
            **{name: value for name, value in OPTIONS.items() if name != "pool"},
        )
        worker.start()


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _leave_logging_alone(**_: object) -> None:
    """Celery would otherwise give the root logger its own handler."""
