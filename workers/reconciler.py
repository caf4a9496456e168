"""The reconciler: `python -m workers.reconciler`. Rings for waiting work, takes back lost leases, tidies up.

Several may run, none leads: every verb skips rows that another one holds. `--check` says whether one lives here.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import time
from typing import Final

from framewright import ids, lifecycle, logs, store
from framewright.database import Database
from framewright.doorbells import Ringer
from framewright.errors import DatabaseUnavailable
from framewright.events import Live
from framewright.rows import Presence
from framewright.settings import Settings, settings_or_exit
from framewright.storage import Storage
from workers.duty import Duty
from workers.janitor import Janitor
from workers.presence import Heartbeat, release

ROLE: Final = "reconciler"
TIDY_S: Final = 30.0
HOURLY_S: Final = 3600.0
LINE_S: Final = 60.0
CLOSE_S: Final = 8.0
_log = logging.getLogger(__name__)


class Reconciler:
    """Every duty in its own thread: a Redis or S3 that is away or hangs delays nothing but its own."""

    def __init__(self, settings: Settings) -> None:
        self.name = f"{ROLE}:{socket.gethostname()}:{os.getpid()}"
        self._settings = settings
        self._db = Database(
            settings.database_url.get_secret_value(), application=self.name[:60], pool_size=4, max_overflow=8
        )
        self._live = Live(settings)
        self._ringer = Ringer(settings)
        self._storage = Storage(settings)
        self._owed: dict[str, int] = {}
        janitor = Janitor(settings, self._db, self._storage)
        often_s = settings.reconcile_s
        self.duties = (
            Duty("doorbells", often_s, self.ring),
            Duty("reaper", often_s, self.reap),
            Duty("deadlines", often_s, self.expire),
            Duty("attempt-sweeper", TIDY_S, janitor.sweep_attempts),
            Duty("asset-retention", TIDY_S, janitor.expire_assets),
            Duty("size-retention", TIDY_S, janitor.trim_outputs),
            Duty("job-sweeper", TIDY_S, janitor.sweep_jobs),
            Duty("upload-sweeper", TIDY_S, janitor.sweep_uploads),
            Duty("multipart-sweeper", HOURLY_S, janitor.abort_multiparts),
            Duty("record-retention", TIDY_S, janitor.purge),
            Duty("metrics", LINE_S, self.line),
        )
        self._heartbeat = Heartbeat(self._db, settings, self._described, lambda _: None)

    def start(self) -> None:
        """Begins all duties; returns at once."""
        self._heartbeat.start()
        for duty in self.duties:
            duty.start()

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Lets every round under way end, but waits no longer than `timeout_s` for all of them."""
        until = time.monotonic() + timeout_s
        for duty in self.duties:
            duty.stop()
        for duty in self.duties:
            if not duty.join(max(0.0, until - time.monotonic())):
                _log.warning("%s is cut off in its round", duty.name)
        self._heartbeat.close()
        self._live.close()
        self._ringer.close()
        self._storage.close()
        self._db.close()

    def ring(self) -> int:
        """Doorbells for due steps that nobody was rung for lately; this is what stands in for an outbox."""
        for queue, n in store.due_doorbells(self._db, every_s=self._settings.doorbell_s).items():
            self._owed[queue] = max(n, self._owed.get(queue, 0))
        rang = 0
        # What Redis did not take is owed until it does: the rows count as rung for.
        for queue, n in list(self._owed.items()):
            rang += self._ringer.ring_now(queue, n)
            del self._owed[queue]
        return rang

    def reap(self) -> int:
        """Leases that ran out or stopped advancing go back to their queues, unless this process just lost sight."""
        reaped = lifecycle.reap(self._db, grace_s=self._settings.lease_s)
        for lost in reaped:
            _log.warning("%s: %s, %s", ids.step_label(lost.job_id, lost.step_id), lost.outcome, lost.answer)
            self._live.poke(lost.job_id, lost.tenant_id, lost.seq)
            if lost.answer == "retry":
                self._ringer.ring(lost.queue)
        return len(reaped)

    def expire(self) -> int:
        """Jobs that were not started by their deadline fail."""
        expired = lifecycle.expire(self._db)
        for job in expired:
            self._live.poke(job.job_id, job.tenant_id, job.seq)
        return len(expired)

    def line(self) -> int:
        """One line on how every duty fares."""
        parts = []
        for duty in self.duties:
            report = duty.report()
            fails = f" ({report['failures']} failures, {report['error']})" if report["error"] else ""
            parts.append(f"{duty.name}={report['done']}{fails}")
        _log.info("duties since the start: %s", ", ".join(parts))
        return 0

    def _described(self) -> Presence:
        return Presence(
            id=self.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=release(),
            queues=(),
            engines=(),
            kinds=(),
            state="idle",
            ttl_s=self._settings.worker_ttl_s,
            capabilities={"role": ROLE, "duties": {duty.name: duty.report() for duty in self.duties}},
        )


def check(settings: Settings) -> str | None:
    """What is wrong with the reconcilers on this host, as a sentence; None when one lives."""
    db = Database(settings.database_url.get_secret_value(), application=f"{ROLE}-check", pool_size=1)
    try:
        rows = [row for row in store.list_workers(db) if row.capabilities.get("role") == ROLE]
    except DatabaseUnavailable as error:
        return error.detail
    finally:
        db.close()
    if any(row.alive and row.host == socket.gethostname() for row in rows):
        return None
    return "no reconciler of this host was heard of lately"


def main() -> None:
    """Runs until SIGTERM or SIGINT; with `--check` only looks, and exits with 0 or 1."""
    parser = argparse.ArgumentParser(prog="python -m workers.reconciler", description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 0 if a reconciler of this host lives, else 1")
    arguments = parser.parse_args()
    settings = settings_or_exit()
    if arguments.check:
        wrong = check(settings)
        if wrong:
            sys.stderr.write(f"{wrong}\n")
        raise SystemExit(1 if wrong else 0)
    logs.configure(settings, ROLE)
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    reconciler = Reconciler(settings)
    reconciler.start()
    _log.info("%s has started", reconciler.name)
    told.wait()
    reconciler.close()
    _log.info("%s has ended", reconciler.name)


if __name__ == "__main__":
    main()
