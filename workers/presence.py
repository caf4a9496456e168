"""What a worker says of itself every few seconds, and what it hears back: run, pause or drain."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Literal

from framewright import catalogue, store
from framewright.database import Database
from framewright.errors import DatabaseUnavailable
from framewright.rows import Control, Presence
from framewright.settings import Settings
from workers.shelf import Refusal

EVERY_S: Final = 5.0
State = Literal["starting", "idle", "busy", "draining"]
_log = logging.getLogger(__name__)


def worker_id(settings: Settings) -> str:
    """The configured name, or one of host and process."""
    return settings.worker_name or f"{socket.gethostname()}:{os.getpid()}"


def release() -> str:
    """The installed version of this service."""
    try:
        return version("framewright")
    except PackageNotFoundError:
        return "0+checkout"


def candidates(settings: Settings) -> tuple[str, ...]:
    """The engines that the catalogue has work for in the queues of this worker."""
    rows = catalogue.rows(test_engines=settings.test_engines)
    return tuple(dict.fromkeys(row.engine for row in rows if row.queue in settings.queues))


def described(
    settings: Settings,
    *,
    name: str,
    state: State,
    capabilities: Mapping[str, Any],
    offered: tuple[str, ...],
    refused: Mapping[str, Refusal],
    resident: str | None,
    current: Mapping[str, Any] | None,
) -> Presence:
    """The row of a worker whose runner found out `capabilities`, and which offers those engines and models now.

    `refused` says of models that are here why they cannot run, `resident` which one is in memory.
    """
    rows = [
        row
        for row in catalogue.rows(test_engines=settings.test_engines)
        if row.capability in offered and row.queue in settings.queues
    ]
    models = {
        "on_disk": sorted(row.name for row in rows),
        "resident": [resident] if resident else [],
        "refused": {model: asdict(refusal) for model, refusal in refused.items()},
    }
    facts = {key: value for key, value in capabilities.items() if key != "engines"}
    return Presence(
        id=name,
        host=socket.gethostname(),
        pid=os.getpid(),
        version=release(),
        queues=settings.queues,
        engines=offered,
        kinds=tuple(sorted({kind for row in rows for kind in row.kinds})),
        state=state,
        ttl_s=settings.worker_ttl_s,
        capabilities={**facts, "role": "worker", "models": models, "current": current},
    )


class Heartbeat:
    """Writes a presence row from a thread until closed; the row is removed when the process ends in order.

    `on_control` hears what the operator wants whenever that changes. A database that is away is tried again.
    """

    def __init__(
        self,
        db: Database,
        settings: Settings,
        describe: Callable[[], Presence],
        on_control: Callable[[Control], None],
    ) -> None:
        self._db, self._describe, self._on_control = db, describe, on_control
        self._every_s = min(EVERY_S, settings.worker_ttl_s / 3)
        self._changed = threading.Condition()
        self._now = True
        self._closed = False
        self._control: Control = "run"
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def hurry(self) -> None:
        """Something worth saying at once changed."""
        with self._changed:
            self._now = True
            self._changed.notify_all()

    def close(self, timeout_s: float = 5.0) -> None:
        """Stops and removes the row, unless the database does not answer in time."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while self._wait():
            try:
                control = store.upsert_worker(self._db, self._describe())
            except DatabaseUnavailable as error:
                _log.info("presence not written: %s", error.detail)
                continue
            except Exception:  # noqa: BLE001 - the next one may be written
                _log.exception("presence not written")
                continue
            if control != self._control:
                _log.info("the operator asks this worker to %s", control)
                self._control = control
                self._on_control(control)
        try:
            store.forget_worker(self._db, self._describe().id)
        except DatabaseUnavailable as error:
            _log.info("presence not removed, it will expire: %s", error.detail)

    def _wait(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._now or self._closed, self._every_s)
            self._now = False
            return not self._closed
