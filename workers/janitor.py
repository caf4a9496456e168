"""The janitor: removes what nobody can reach any more, from storage first and then from the books."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from framewright import store
from framewright.database import Database
from framewright.rows import AssetRow, DeadJob, DeadPrefix, UploadRow
from framewright.settings import Settings
from framewright.storage import Storage

BATCH: Final = 500
STALE_MULTIPART_S: Final = 24 * 3600.0
"""No attempt lives as long as this, so whoever began the upload is gone."""
STALE_WORKER_S: Final = 3600.0
T = TypeVar("T")


class Janitor:
    """Duties that answer how many things they removed. Each may be done twice, or by two janitors at once."""

    def __init__(self, settings: Settings, db: Database, storage: Storage) -> None:
        self._settings, self._db, self._storage = settings, db, storage

    def sweep_attempts(self) -> int:
        """All that attempts without success uploaded, and the checkpoints of the others; never a committed file."""
        return self._in_batches(lambda: store.dead_prefixes(self._db, limit=BATCH), self._sweep)

    def sweep_jobs(self) -> int:
        """Whatever else lies under the prefixes of jobs whose files are all gone: deleted jobs above all."""
        return self._in_batches(lambda: store.dead_jobs(self._db, limit=BATCH), self._sweep_jobs)

    def expire_assets(self) -> int:
        """Inputs and outputs past their time, and those of deleted jobs."""
        return self._in_batches(lambda: store.expire_assets(self._db, limit=BATCH), self._remove_assets)

    def trim_outputs(self) -> int:
        """Marks the oldest outputs as expired while all together are larger than the setting allows."""
        if self._settings.retention_gb is None:
            return 0
        most = int(self._settings.retention_gb * 1_000_000_000)
        return store.trim_outputs(self._db, max_bytes=most, limit=BATCH)

    def sweep_uploads(self) -> int:
        """Objects that were put through links of direct uploads and became no asset, or came after it."""
        return self._in_batches(lambda: store.dead_uploads(self._db, limit=BATCH), self._remove_uploads)

    def abort_multiparts(self, older_than_s: float = STALE_MULTIPART_S) -> int:
        """Parts of uploads whose worker died."""
        count = 0
        for multipart in self._storage.stale_multiparts(older_than_s):
            self._storage.abort_multipart(multipart)
            count += 1
        return count

    def purge(self) -> int:
        """Rows that only remember: idempotency keys, tickets, events of jobs that ended long ago, workers long gone."""
        purged = store.purge(
            self._db, event_ttl_h=self._settings.event_ttl_h, worker_ttl_s=STALE_WORKER_S, limit=BATCH * 10
        )
        return sum(purged)

    def _sweep(self, prefixes: Sequence[DeadPrefix]) -> None:
        for dead in prefixes:
            prefix = self._storage.checkpoint_prefix if dead.succeeded else self._storage.output_prefix
            self._storage.delete_prefix(prefix(dead.tenant_id, dead.job_id, dead.step_name, dead.fence))
        store.mark_swept(self._db, [dead.fence for dead in prefixes])

    def _sweep_jobs(self, jobs: Sequence[DeadJob]) -> None:
        for dead in jobs:
            self._storage.delete_prefix(self._storage.job_prefix(dead.tenant_id, dead.job_id))
        store.mark_jobs_swept(self._db, [dead.job_id for dead in jobs])

    def _remove_assets(self, assets: Sequence[AssetRow]) -> None:
        self._storage.delete(asset.key for asset in assets)
        store.mark_purged(self._db, [asset.id for asset in assets])

    def _remove_uploads(self, uploads: Sequence[UploadRow]) -> None:
        self._storage.delete(upload.key for upload in uploads)
        store.mark_uploads_removed(self._db, [upload.id for upload in uploads])

    def _in_batches(self, find: Callable[[], list[T]], remove: Callable[[list[T]], None]) -> int:
        count = 0
        while found := find():
            remove(found)
            count += len(found)
            if len(found) < BATCH:
                break
        return count
