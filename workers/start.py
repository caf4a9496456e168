"""Starts a worker: `python -m workers.start`. The supervisor comes first and needs no Redis; Celery is its ear."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import Final

from framewright import logs
from framewright.dispatch import celery_app
from framewright.doorbells import Ringer
from framewright.errors import SettingsError
from framewright.settings import settings_or_exit
from workers.doorbell import Ear, attach
from workers.supervisor import Supervisor

EAR_S: Final = 10.0
_log = logging.getLogger(__name__)


def main() -> None:
    """Runs until SIGTERM or SIGINT, which drain the worker; a second one makes it give its step back at once."""
    settings = settings_or_exit()
    logs.configure(settings, "worker")
    try:
        supervisor = Supervisor(settings)
    except SettingsError as error:
        sys.stderr.write(f"framewright: {error.detail}\n")
        raise SystemExit(os.EX_CONFIG) from None
    except OSError as error:
        sys.stderr.write(f"framewright: there is no scratch space (FRAMEWRIGHT_SCRATCH_DIR): {error.strerror}\n")
        raise SystemExit(os.EX_IOERR) from None
    ringer = Ringer(settings)
    app = celery_app(settings)
    attach(app, supervisor, ringer)
    ear = Ear(app, settings)
    told = _Told()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)
    supervisor.start()
    ear.start()
    told.once.wait()
    _log.info("draining")
    supervisor.drain()
    while not supervisor.join(0.2):
        if told.twice.is_set():
            supervisor.hurry()
            supervisor.join()
    ear.close(EAR_S)
    ringer.close()


class _Told:
    """Counts signals; acts on none inside the handler, where a lock may be held."""

    def __init__(self) -> None:
        self.once = threading.Event()
        self.twice = threading.Event()

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        (self.twice if self.once.is_set() else self.once).set()


if __name__ == "__main__":
    main()
