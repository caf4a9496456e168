"""Keeping the lease of the step in hand, from a thread of its own, however busy or stuck everything else is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from framewright import lifecycle
from framewright.database import Database
from framewright.errors import DatabaseUnavailable
from framewright.jobs import Claim
from workers.track import Track

_AGAIN_S: Final = 1.0
_log = logging.getLogger(__name__)


class Lease:
    """Renews one claim every `renew_s` until closed; use it as a context manager.

    `on_lost` is called once, from the thread, when the lease is no longer ours; then the thread ends. `on_yield` is
    called when the database asks for the step back. A database that is away changes nothing: the fence alone decides,
    so the renewal is tried until it answers.
    """

    def __init__(
        self,
        db: Database,
        claim: Claim,
        track: Track,
        *,
        lease_s: float,
        renew_s: float,
        on_lost: Callable[[], None],
        on_yield: Callable[[], None],
    ) -> None:
        self._db, self._claim, self._track = db, claim, track
        self._lease_s, self._renew_s = lease_s, renew_s
        self._on_lost, self._on_yield = on_lost, on_yield
        self._changed = threading.Condition()
        self._renewing = threading.Lock()
        self._due = time.monotonic() + renew_s
        self._closed = False
        self._told = 0
        self._thread = threading.Thread(target=self._run, name=f"lease-{claim.step_id}", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Renews no more; nothing waits for the answer of a renewal under way, and nobody is told of it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def hurry(self) -> None:
        """Renew now: somebody hinted that the answer may have changed."""
        with self._changed:
            self._due = time.monotonic()
            self._changed.notify_all()

    def keep(self, checkpoint: Mapping[str, Any]) -> bool:
        """Stores a checkpoint with a renewal; False when the lease is lost. `DatabaseUnavailable` may be raised."""
        return self._renew(dict(checkpoint)) != "lost"

    def _run(self) -> None:
        while self._wait():
            try:
                answer = self._renew()
            except DatabaseUnavailable as error:
                _log.warning("%s: lease not renewed: %s", self._claim.label, error.detail)
                pause_s = min(_AGAIN_S, self._renew_s)
            except Exception:  # noqa: BLE001 - as long as this thread lives, the lease may
                _log.exception("%s: lease not renewed", self._claim.label)
                pause_s = self._renew_s
            else:
                pause_s = self._renew_s
                if answer == "lost":
                    if not self._closed:
                        self._on_lost()
                    return
                if answer == "yield":
                    self._on_yield()
            with self._changed:
                self._due = time.monotonic() + pause_s

    def _wait(self) -> bool:
        with self._changed:
            while not self._closed and (wait_s := self._due - time.monotonic()) > 0:
                self._changed.wait(wait_s)
            return not self._closed

    def _renew(self, checkpoint: dict[str, Any] | None = None) -> str:
        with self._renewing:
            moves, snapshot = self._track.moves, self._track.snapshot
            answer = lifecycle.renew(
                self._db,
                self._claim,
                lease_s=self._lease_s,
                progressed=moves > self._told or self._track.patient,
                progress=snapshot if moves > self._told else None,
                checkpoint=checkpoint,
            )
            self._told = moves
            return answer
