"""A worker's moves made by hand, through the same verbs and the same live stream as a real worker's."""

from __future__ import annotations

import hashlib
from types import TracebackType
from typing import Any, Self

from framewright import lifecycle
from framewright.database import Database
from framewright.events import Live
from framewright.jobs import Artifact, Claim, Eta, Outcome, Progress
from framewright.settings import Settings
from framewright.storage import Storage, output_key

FILE = bytes(range(256)) * 40
ETA = Eta(6.0, 7.5, "measured")


class Hand:
    """Claims and ends steps; `live=False` tells nobody, as when every poke was lost."""

    def __init__(self, settings: Settings, db: Database, *, live: bool = True) -> None:
        self.settings, self.db = settings, db
        self.live = Live(settings) if live else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.live:
            self.live.close()

    def poke(self, claim: Claim, seq: int) -> None:
        if self.live:
            self.live.poke(claim.job_id, claim.tenant_id, seq)

    def claim(self) -> Claim:
        found = lifecycle.claim(self.db, "hand", ("cpu", "encode"), ("camera-move", "encode", "scripted"), lease_s=60)
        assert found is not None
        self.poke(found, 2)
        return found

    def progress(self, claim: Claim, fraction: float) -> None:
        progress = Progress(fraction, "rendering", frames_done=int(fraction * 100), frames_total=100, eta=ETA)
        if self.live:
            self.live.progress(claim, progress)

    def artifact(
        self, claim: Claim, folder: Any, body: bytes = FILE, *, name: str = "video.mp4", kind: str = "video/mp4"
    ) -> Artifact:
        """A stored file; its bytes are no video, because nobody here plays it."""
        key = output_key(claim.tenant_id, claim.job_id, claim.step_name, claim.fence, name)
        path = folder / name
        path.write_bytes(body)
        digest = hashlib.sha256(body).digest()
        storage = Storage(self.settings)
        storage.put_file(key, path, kind, sha256=digest)
        storage.close()
        meta = {"width": 64, "height": 48, "frames": 4, "fps": "4/1", "duration_s": 1.0, "codecs": "hvc1.1.6.L30.B0"}
        return Artifact(name, key, len(body), digest, kind, meta)

    def complete(self, claim: Claim, folder: Any, *beside: Artifact) -> None:
        done = lifecycle.complete(self.db, claim, [self.artifact(claim, folder), *beside])
        assert done.answer == "ok"
        self.poke(claim, done.seq)

    def fail(self, claim: Claim, message: str = "the picture is damaged") -> None:
        ended = lifecycle.release(self.db, claim, Outcome.BAD_INPUT, message=message, field="/input/image")
        assert ended.answer == "failed"
        self.poke(claim, ended.seq)
