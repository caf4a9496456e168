"""A desk for worker tests: submits jobs, runs a supervisor on them, and looks at what became of them."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import redis
from PIL import Image
from waiting import until

from framewright import ids, lifecycle, store
from framewright.database import Database
from framewright.events import LiveEntry, wire
from framewright.given import AssetFacts
from framewright.jobs import Claim, JobState
from framewright.params import JobRequest
from framewright.plan import plan
from framewright.rows import EventRow, JobRow, NewAsset, OutputRow
from framewright.settings import Settings
from framewright.storage import Storage
from workers.supervisor import Supervisor

TENANT = "default"


class Desk:
    """Everything a test needs to see a job through, on real servers."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.db = Database(settings.database_url.get_secret_value(), application="desk")
        self.storage = Storage(settings)
        store.ensure_tenant(self.db, TENANT)

    def close(self) -> None:
        self.db.close()
        self.storage.close()

    def submit(
        self, *, stall_s: float = 120.0, timeout: float | None = None, assets: Any = None, **request: Any
    ) -> UUID:
        """A job; without `kind` one of the scripted engine, whose `params` are then the keywords given."""
        if "kind" not in request:
            request = {"kind": "animate", "model": "scripted", "params": {**SMALL, **request}}
        if timeout is not None:
            request["timeout"] = timeout
        asked = JobRequest.model_validate(request)
        planned = plan(asked, assets or {}, test_engines=True, stall_s=stall_s)
        submission = lifecycle.Submission(TENANT, planned, request, max_queued=100_000, max_queued_per_tenant=100_000)
        return lifecycle.submit(self.db, submission).job.id

    def uploaded(self, data: bytes, size: tuple[int, int] = (192, 128)) -> tuple[str, AssetFacts]:
        """A picture as the API leaves it, object and row: its public id and what is known of it."""
        asset_id, digest = ids.uuid7(), hashlib.sha256(data).digest()
        key = self.put(self.storage.asset_key(TENANT, asset_id), data)
        (width, height), kind = size, "image/png"
        new = NewAsset(
            *(asset_id, TENANT, "image", kind, "a.png", len(data), digest, key), ttl_h=24, width=width, height=height
        )
        row = store.insert_asset(self.db, new)
        facts = AssetFacts(row.id, kind, "image", len(data), width, height, 1, None, None, key, digest.hex())
        return ids.public(ids.ASSET, row.id), facts

    def put(self, key: str, data: bytes = b"x") -> str:
        """An object under that key."""
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            digest = hashlib.sha256(data).digest()
            self.storage.put_file(key, Path(file.name), "application/octet-stream", sha256=digest)
        return key

    def animate(self, name: str, facts: AssetFacts, **params: Any) -> UUID:
        """A camera move over an uploaded picture, of four frames unless `params` say otherwise."""
        wanted = {"move": "zoom-in", "seconds": 0.5, "fps": 8, "size": f"{facts.width}x{facts.height}", **params}
        asked = {"kind": "animate", "model": "camera-move", "input": {"image": name}, "params": wanted}
        return self.submit(**asked, assets={name: facts})

    def job(self, job_id: UUID) -> JobRow:
        return store.get_job(self.db, TENANT, job_id)

    def ended(self, job_id: UUID, deadline_s: float = 60) -> JobRow:
        until(lambda: self.job(job_id).ended, deadline_s)
        return self.job(job_id)

    def running(self, job_id: UUID, *, step: int = 1, deadline_s: float = 60) -> JobRow:
        """The job once a step of it runs and its renewals have stored that `step` of the script is done."""
        until(lambda: (self.job(job_id).progress["step"] or 0) >= step, deadline_s)
        return self.job(job_id)

    def lease(self, job_id: UUID) -> Claim:
        """The lease of the step of the job that runs, as its worker holds it."""
        with self.db.connect() as connection:
            row = connection.execute(
                "SELECT id, fence, attempt, name, kind, engine, model, queue, timeout_s, stall_s"
                " FROM steps WHERE job_id = %s AND state = 'running'",
                (job_id,),
            ).fetchone()
        assert row is not None
        step_id, fence, attempt, name, kind, engine, model, queue, timeout_s, stall_s = row
        return Claim(
            *(job_id, step_id, TENANT, fence, attempt, name, kind, engine, model, queue),
            *({}, {}, timeout_s, stall_s, None, self.job(job_id).created_at),
        )

    def events(self, job_id: UUID) -> list[EventRow]:
        return store.events_after(self.db, {job_id: 0})

    def types(self, job_id: UUID) -> list[str]:
        return [event.type for event in self.events(job_id)]

    def outcomes(self, job_id: UUID) -> list[str]:
        """How each attempt ended, in order."""
        return [event.data["outcome"] for event in self.events(job_id) if event.type == "attempt_ended"]

    def succeeded(self, job_id: UUID, deadline_s: float = 60) -> JobRow:
        """The job, which must succeed with one terminal event, and whose files must be what the rows say."""
        job = self.ended(job_id, deadline_s)
        assert job.state is JobState.SUCCEEDED, (job.error, self.events(job_id))
        assert [event.seq for event in self.events(job_id)] == list(range(1, job.event_seq + 1))
        assert self.types(job_id)[-1] == "succeeded"
        assert self.types(job_id).count("succeeded") == 1
        for output in job.outputs:
            head = self.storage.head(output.key)
            assert head is not None
            assert (head.size, head.sha256) == (output.size, output.sha256)
        return job

    def fetched(self, output: OutputRow, place: Path) -> Path:
        """A stored output as a file below `place`."""
        path = place / f"{output.name}.fetched"
        self.storage.get_file(output.key, path)
        return path

    def live(self, job_id: UUID) -> list[LiveEntry]:
        """What was published of the job so far."""
        with redis.Redis.from_url(self.settings.redis_url.get_secret_value()) as client:
            found = client.xrange(wire.stream_key(self.settings))
        decoded = [wire.decode(entry_id, fields[wire.FIELD]) for entry_id, fields in found]
        return [entry for entry in decoded if entry is not None and entry.job_id == job_id]

    def scripts(self, output_key: str, place: Path) -> list[Any]:
        """What each frame of a stored clip of the scripted engine says of itself."""
        import av

        from workers.engines.scripted import read_stamp

        path = place / "fetched.mp4"
        self.storage.get_file(output_key, path)
        with av.open(str(path)) as container:
            return [read_stamp(frame.to_ndarray(format="gray")) for frame in container.decode(video=0)]


SMALL: dict[str, Any] = {"frames": 4, "size": "192x152", "steps": 4, "step_ms": 10}
"""A clip that takes no time worth speaking of."""


def picture(colour: str = "orange", size: tuple[int, int] = (192, 128)) -> bytes:
    """A PNG of noise, which no encoder makes small, with a plain patch on it."""
    out = io.BytesIO()
    image = Image.effect_noise(size, 90).convert("RGB")
    image.paste(colour, (40, 40, 120, 90))
    image.save(out, "PNG")
    return out.getvalue()


@contextmanager
def supervised(settings: Settings) -> Iterator[Supervisor]:
    """A supervisor with a real runner, in threads of this process; told to go at once afterwards."""
    supervisor = Supervisor(settings)
    supervisor.start()
    try:
        yield supervisor
    finally:
        supervisor.hurry()
        assert supervisor.join(30)
        assert not supervisor._scratch.path.exists()
