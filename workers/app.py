"""The Celery app, for those who start workers with Celery's own command:

`celery -A workers.app worker -P threads -c 1 --without-gossip --without-mingle --without-heartbeat -Q cpu,encode`.
`python -m workers.start` does the same, takes the queues from the settings, and survives more (see there).
"""

from __future__ import annotations

from typing import Any

from celery import signals

from framewright import logs
from framewright.dispatch import celery_app
from framewright.doorbells import Ringer
from framewright.settings import settings
from workers.doorbell import attach
from workers.supervisor import Supervisor

app = celery_app(settings())
_supervisor = Supervisor(settings())
attach(app, _supervisor, Ringer(settings()))


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def _begin(**_: Any) -> None:
    # At init, not when ready: a worker must work also when the broker never answers.
    logs.configure(settings(), "worker")
    _supervisor.start()


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _drain(how: str = "Warm", **_: Any) -> None:
    if how == "Warm":
        _supervisor.drain()
    else:
        _supervisor.hurry()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _finish(**_: Any) -> None:
    _supervisor.drain()
    _supervisor.join()
