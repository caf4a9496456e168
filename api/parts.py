"""What one API process is made of, put together once at start and handed to endpoints."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from api.auth import Keyring
from api.hub import EventHub
from api.lane import Lane
from api.metrics import Metrics
from api.views import Views, fleet
from framewright import catalogue, keys, store
from framewright.database import Database
from framewright.doorbells import Ringer
from framewright.errors import FramewrightError
from framewright.events import Live
from framewright.rows import JobRow, WorkerRow
from framewright.settings import Settings
from framewright.storage import Storage

log = logging.getLogger("framewright.api")

DEFAULT_TENANT = "default"
# With libpq's two seconds to connect this keeps "the database is away" within three, even when it is frozen.
STATEMENT_S = 2.0
WATCH_S = 3.0
BUCKET_S = 3.0
# S3 that is frozen keeps a question for as long as its timeouts allow; its last answer is worth no more than this.
STALE_S = 10.0
_JOIN_S = 1.0
# Downloads through this process that wait for S3 at the same time; as many as its client keeps connections.
READERS = 16
# Each may take half a GB of memory when the file is large.
VERIFIERS = 2


class StorageWatch:
    """Asks S3 whether it is there, on a thread of its own, so that nobody who wants to know waits for it."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="storage-watch", daemon=True)
        self._detail: str | None = None
        self._at: float | None = None

    def start(self) -> None:
        self._thread.start()

    def last(self) -> tuple[Literal["ok", "down", "starting"], str | None]:
        """The last answer and what was wrong; it never waits. `starting` is before the first one."""
        if self._at is None:
            return "starting", "S3 was not heard of yet"
        if self._detail is None and time.monotonic() - self._at > STALE_S:
            return "down", f"S3 did not answer for more than {STALE_S:.0f} s"
        return ("ok", None) if self._detail is None else ("down", self._detail)

    def close(self) -> None:
        """Ends the thread; one that S3 holds up is left to end with its question, and not waited for."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._storage.ping()
                self._detail = None
            except FramewrightError as error:
                self._detail = error.detail
            except Exception:
                if not self._closing.is_set():
                    log.exception("S3 cannot be watched")
                self._detail = "S3 cannot be asked; the log says why"
            self._at = time.monotonic()
            self._closing.wait(WATCH_S)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts. Nothing in here is state that another API process would miss."""

    settings: Settings
    db: Database
    storage: Storage
    storage_watch: StorageWatch
    ringer: Ringer
    live: Live
    keyring: Keyring
    hub: EventHub
    views: Views
    metrics: Metrics
    ingestion: ThreadPoolExecutor
    reading: Lane
    verifying: Lane
    prepared: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)
    bucket_s: float = BUCKET_S

    def fleet(self, role: str = "worker") -> list[WorkerRow]:
        """Those who said they are there lately: workers, or with `reconciler` the ones that keep order."""
        return [row for row in store.list_workers(self.db) if row.capabilities.get("role", "worker") == role]

    def announce(self, job: JobRow, queues: Sequence[str] = ()) -> None:
        """Tells the rest of the system after a commit; it only enqueues, so it cannot fail or wait."""
        for queue in queues:
            self.ringer.ring(queue, 1)
        self.live.poke(job.id, job.tenant_id, job.event_seq)

    def hint(self, job_id: UUID) -> None:
        """Tells workers to look at a running job now."""
        self.live.hint(job_id)

    def prepare(self) -> None:
        """Makes sure that tenant, bootstrap key and bucket exist; tries until they do or the process ends."""
        self._until_done(self._bootstrap)
        bucket = threading.Thread(
            target=self._until_done, args=(self.storage.ensure_bucket,), name="bucket", daemon=True
        )
        bucket.start()
        # Or the first upload would find no bucket; an S3 that is away or hangs keeps nobody out for longer.
        bucket.join(self.bucket_s)
        self.prepared.set()
        self.storage_watch.start()

    def _until_done(self, step: Callable[[], None]) -> None:
        warned = False
        while not self.closing.is_set():
            try:
                return step()
            except FramewrightError as error:
                log.log(logging.DEBUG if warned else logging.WARNING, "not prepared yet: %s", error.detail)
                warned = True
                self.closing.wait(1.0)
            except Exception:
                log.exception("a part cannot be prepared")
                self.closing.wait(5.0)
        return None

    def _bootstrap(self) -> None:
        store.ensure_tenant(self.db, DEFAULT_TENANT)
        given = self.settings.bootstrap_key
        if given is None:
            return
        parsed = keys.parse(given.get_secret_value())
        digest = keys.digest(self.settings.key_pepper.get_secret_value(), parsed.secret)
        if store.find_key(self.db, parsed.id) is None:
            store.insert_key(self.db, parsed.id, DEFAULT_TENANT, "bootstrap", digest, keys.SCOPES)

    async def close(self) -> None:
        self.closing.set()
        await asyncio.to_thread(self.storage_watch.close)
        await self.hub.close()
        self.ingestion.shutdown(wait=False, cancel_futures=True)
        self.reading.close()
        self.verifying.close()
        self.ringer.close()
        self.live.close()
        self.storage.close()
        self.db.close()


def build(settings: Settings, metrics: Metrics) -> Parts:
    """The parts of this process. Connects to nothing yet: whatever is away is said by the request that needs it."""
    catalogue.install(settings.catalogue)
    db = Database(
        settings.database_url.get_secret_value(),
        application="framewright-api",
        pool_size=8,
        max_overflow=8,
        statement_s=STATEMENT_S,
    )
    storage = Storage(settings)
    boards: dict[str, Callable[[], Any]] = {
        "queue": lambda: [fleet.queue(row).model_dump(mode="json") for row in store.queues(db)],
        "workers": lambda: [fleet.worker(row).model_dump(mode="json") for row in made.fleet()],
    }
    made = Parts(
        settings=settings,
        db=db,
        storage=storage,
        storage_watch=StorageWatch(storage),
        ringer=Ringer(settings),
        live=Live(settings),
        keyring=Keyring(db, settings.key_pepper.get_secret_value()),
        hub=EventHub(settings, db, boards),
        views=Views(settings.public_url),
        metrics=metrics,
        # Few, and not the threads of requests: looking at an upload takes a process and seconds.
        ingestion=ThreadPoolExecutor(4, "ingest"),
        reading=Lane(READERS, "read"),
        verifying=Lane(VERIFIERS, "verify"),
    )
    return made


def parts_of(connection: HTTPConnection) -> Parts:
    """The parts of the process that serves this request or socket."""
    parts: Parts = connection.app.state.parts
    return parts


async def _parts(request: Request) -> Parts:
    return parts_of(request)


P = Annotated[Parts, Depends(_parts)]
