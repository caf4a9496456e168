"""Checkpoints of the step in hand: stored beside its outputs, so that another worker can go on from the last one."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from framewright.errors import Canceled, DatabaseUnavailable, FramewrightError, ObjectMissing
from framewright.jobs import Claim
from framewright.storage import Storage
from workers.lease import Lease
from workers.transfer import sha256

_AGAIN_S: Final = 0.5
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Offer:
    number: int
    state: Mapping[str, Any]
    files: tuple[Path, ...]


class Checkpoints:
    """Uploads and records checkpoints from a thread, at most one in `every_s`; the newest wins.

    One that cannot be kept costs work later, never the step. What a step's row says:
    `{"fence", "state", "files": [{"name", "key", "size", "sha256"}]}`.
    """

    def __init__(
        self, storage: Storage, claim: Claim, lease: Lease, *, every_s: float, canceled: Callable[[], bool]
    ) -> None:
        self._storage, self._claim, self._lease = storage, claim, lease
        self._over = canceled
        self._every_s = every_s
        self._due = time.monotonic() + every_s
        self._changed = threading.Condition()
        self._offer: _Offer | None = None
        self._busy = self._flushing = self._closed = False
        self._count = 0
        self.began = False
        """Whether anything may be stored: the files of a checkpoint were or are being uploaded."""
        self._stored: list[str] = []
        self._thread: threading.Thread | None = None

    def offer(self, state: Mapping[str, Any], files: list[Path]) -> None:
        """Takes over `files`, each of which is removed once it is stored or overtaken by a newer checkpoint."""
        with self._changed:
            overtaken, self._count = self._offer, self._count + 1
            self._offer = _Offer(self._count, state, tuple(files))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if overtaken:
            _forget(overtaken)

    def flush(self, timeout_s: float) -> bool:
        """Records the newest checkpoint now; False if that takes longer."""
        with self._changed:
            self._flushing = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._offer is None and not self._busy, timeout_s)

    def discard(self) -> None:
        """The step is done: what was stored to resume from is of no use. Best effort."""
        try:
            self._storage.delete(self._stored)
        except FramewrightError as error:
            _log.info("%s: checkpoints stay: %s", self._claim.label, error)

    def close(self) -> None:
        """Starts no further upload and cancels the one under way; what it leaves is the janitor's."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _canceled(self) -> bool:
        return self._closed or self._over()

    def _run(self) -> None:
        while offer := self._next():
            try:
                self._keep(offer)
            except (FramewrightError, OSError) as error:
                _log.warning("%s: a checkpoint is not kept: %s", self._claim.label, error)
            finally:
                _forget(offer)
                with self._changed:
                    self._busy = False
                    self._due = time.monotonic() + self._every_s
                    self._changed.notify_all()

    def _next(self) -> _Offer | None:
        with self._changed:
            while not self._closed:
                left_s = 0.0 if self._flushing else self._due - time.monotonic()
                if self._offer is not None and left_s <= 0:
                    offer, self._offer, self._busy = self._offer, None, True
                    return offer
                self._changed.wait(left_s if self._offer is not None else None)
            return None

    def _keep(self, offer: _Offer) -> None:
        claim = self._claim
        base = self._storage.checkpoint_prefix(claim.tenant_id, claim.job_id, claim.step_name, claim.fence)
        files: list[dict[str, Any]] = []
        for path in offer.files:
            self.began = True
            key, digest = f"{base}{offer.number}/{path.name}", sha256(path, self._canceled)
            content_type = "application/octet-stream"
            size = self._storage.put_file(key, path, content_type, sha256=digest, canceled=self._canceled).size
            files.append({"name": path.name, "key": key, "size": size, "sha256": digest.hex()})
        checkpoint = {"fence": claim.fence.hex, "state": dict(offer.state), "files": files}
        self._record(checkpoint)
        old, self._stored = self._stored, [file["key"] for file in files]
        if old:
            self._storage.delete(old)

    def _record(self, checkpoint: Mapping[str, Any]) -> None:
        while not self._canceled():
            try:
                if self._lease.keep(checkpoint):
                    return
                break
            except DatabaseUnavailable:
                with self._changed:
                    self._changed.wait(_AGAIN_S)
        raise Canceled("the attempt is over")


def restore(storage: Storage, claim: Claim, work: Path, canceled: Callable[[], bool]) -> Mapping[str, Any] | None:
    """Puts the files of the claim's checkpoint into `work` and returns its state; None to start from the beginning."""
    if not claim.checkpoint:
        return None
    try:
        for file in claim.checkpoint["files"]:
            path = work / Path(file["name"]).name
            storage.get_file(file["key"], path, canceled=canceled)
            if sha256(path, canceled).hex() != file["sha256"]:
                raise ObjectMissing("a file of the checkpoint is not what was stored")
    except ObjectMissing as error:
        _log.warning("%s: starts from the beginning: %s", claim.label, error.detail)
        for path in work.iterdir():
            path.unlink()
        return None
    state: Mapping[str, Any] = claim.checkpoint["state"]
    return state


def _forget(offer: _Offer) -> None:
    for place in {path.parent for path in offer.files}:
        shutil.rmtree(place, ignore_errors=True)
