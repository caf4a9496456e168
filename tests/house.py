"""A whole system of real processes for one test, seen only through its public API and its database."""

from __future__ import annotations

import io
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import psycopg
from PIL import Image
from psycopg.rows import dict_row
from waiting import until

from framewright.local import System

TERMINAL = {"succeeded", "failed", "canceled"}
BRISK = {"lease_s": 3, "renew_s": 0.5, "idle_claim_s": 2, "doorbell_s": 2, "reconcile_s": 0.25, "cancel_grace_s": 3}
"""Timers short enough to wait for; a test that promises something about the defaults gives its own."""


@contextmanager
def houses(data_home: Path) -> Iterator[Callable[..., House]]:
    """A maker of houses below `data_home`, all of which end with the block."""
    with ExitStack() as ends:

        def make(*, api: int = 1, workers: int = 1, reconcilers: int = 1, **env: Any) -> House:
            data = data_home / f"house-{uuid.uuid4().hex[:8]}"
            ends.callback(shutil.rmtree, data, ignore_errors=True)
            settings = {"test_engines": True, **BRISK, **env}
            system = System(data, api=api, workers=workers, reconcilers=reconcilers, env=settings, durable=False)
            house = House(ends.enter_context(system))
            ends.callback(house.http.close)
            return house

        yield make


class House:
    """A running `System` and the few questions that tests of faults ask of it."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.http = self.client(system.url)

    def client(self, url: str, **more: Any) -> httpx.Client:
        """An HTTP client of the admin key, towards one API process."""
        headers = {"Authorization": f"Bearer {self.system.api_key}"}
        return httpx.Client(base_url=url, headers=headers, timeout=60, **more)

    # --- the public API

    def submit(self, *, key: str | None = None, **params: Any) -> str:
        """A job of the scripted engine; returns its id."""
        answer = self.post({"kind": "animate", "model": "scripted", "params": params}, key=key)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def post(self, body: Mapping[str, Any], *, key: str | None = None) -> httpx.Response:
        return self.http.post("/api/v1/jobs", json=body, headers={"Idempotency-Key": key} if key else {})

    def noise(self, width: int, height: int) -> str:
        """An uploaded picture that no codec makes small; returns its asset."""
        pixels = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        answer = self.http.put("/api/v1/assets?filename=noise.png", content=file.getvalue())
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def job(self, job: str) -> dict[str, Any]:
        return dict(self.http.get(f"/api/v1/jobs/{job}").raise_for_status().json())

    def ended(self, job: str, deadline_s: float = 90) -> dict[str, Any]:
        """The job once it is terminal; the server holds each question open, so nothing here polls fast."""
        give_up = time.monotonic() + deadline_s
        while True:
            answer = self.http.get(f"/api/v1/jobs/{job}", headers={"Prefer": "wait=10"}).raise_for_status().json()
            if answer["status"] in TERMINAL:
                return dict(answer)
            assert time.monotonic() < give_up, f"{job} did not end in {deadline_s} s: {answer}"

    def succeeded(self, job: str, deadline_s: float = 90) -> dict[str, Any]:
        """As `ended`; the test fails unless the job succeeded with one primary file whose pixels are its own."""
        from stamps import stamps_of

        answer = self.ended(job, deadline_s)
        assert answer["status"] == "succeeded", answer["error"]
        stamps = stamps_of(self.download(answer))
        winner = next(one for one in answer["attempts"] if one["outcome"] == "succeeded")
        assert {stamp.job for stamp in stamps} == {job.removeprefix("job_")}
        assert {stamp.attempt for stamp in stamps} == {winner["n"]}
        assert [stamp.index for stamp in stamps] == list(range(len(stamps)))
        return answer

    def download(self, job: Mapping[str, Any]) -> bytes:
        """The bytes of the first output, by the link the job carries."""
        link = job["outputs"][0]["links"]["content"]
        return self.http.get(link, follow_redirects=True).raise_for_status().content

    def running(self, job: str, deadline_s: float = 60) -> dict[str, Any]:
        """The job as soon as an attempt of it runs in an engine."""
        return until(lambda: self._if(job, lambda one: one["status"] == "running"), deadline_s)

    def in_phase(self, job: str, phase: str, deadline_s: float = 60) -> dict[str, Any]:
        """The job as soon as it is seen in that phase, which may be short."""
        return until(lambda: self._if(job, lambda one: one["phase"] == phase), deadline_s, every_s=0.02)

    def progressed(self, job: str, fraction: float, deadline_s: float = 60) -> dict[str, Any]:
        """The job as soon as that fraction of it is done."""
        return until(lambda: self._if(job, lambda one: one["progress"]["fraction"] >= fraction), deadline_s)

    def _if(self, job: str, holds: Any) -> dict[str, Any] | None:
        answer = self.job(job)
        return answer if holds(answer) else None

    # --- the database

    def sql(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Rows of the database, as dictionaries."""
        with psycopg.connect(self.system.servers.database_url, autocommit=True, row_factory=dict_row) as connection:
            return connection.execute(query, values).fetchall()  # type: ignore[arg-type]

    def events(self, job: str) -> list[dict[str, Any]]:
        """The durable events of a job, by `seq`; fails unless they are gapless with at most one, last, terminal."""
        rows = self.sql(
            "SELECT seq, type, data, at FROM events WHERE job_id = %s ORDER BY seq", job.removeprefix("job_")
        )
        assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
        ends = [row["seq"] for row in rows if row["type"] in TERMINAL]
        assert ends in ([], [len(rows)]), f"terminal events at {ends} of {len(rows)}"
        return rows

    def outcomes(self, job: str) -> list[str]:
        """How the attempts of a job ended so far, oldest first."""
        rows = self.sql(
            "SELECT outcome::text AS outcome FROM attempts a JOIN steps s ON s.id = a.step_id"
            " WHERE s.job_id = %s ORDER BY a.started_at",
            job.removeprefix("job_"),
        )
        return [row["outcome"] for row in rows]

    def artifacts(self, job: str) -> list[dict[str, Any]]:
        """Every committed file of a job; fails if two of one name were committed, or one of a losing attempt."""
        rows = self.sql(
            "SELECT r.*, a.outcome::text AS outcome FROM artifacts r JOIN attempts a USING (fence)"
            " JOIN steps s ON s.id = a.step_id WHERE s.job_id = %s",
            job.removeprefix("job_"),
        )
        assert len({row["name"] for row in rows}) == len(rows)
        assert {row["outcome"] for row in rows} <= {"succeeded"}
        return rows

    @contextmanager
    def held(self, job: str) -> Iterator[None]:
        """Nobody can end the job, or begin an attempt of it, until the end of the block: its row is locked."""
        url = self.system.servers.database_url
        with psycopg.connect(url) as connection:
            connection.execute("SELECT 1 FROM jobs WHERE id = %s FOR NO KEY UPDATE", (job.removeprefix("job_"),))
            yield

    def queueing(self) -> list[str]:
        """The verbs that wait for a row, longest waiting first."""
        rows = self.sql(
            "SELECT substring(query FROM 'fw_([a-z]+)') AS verb FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database() ORDER BY query_start"
        )
        return [row["verb"] for row in rows]

    # --- processes

    def runner_of(self, worker: str) -> psutil.Process:
        """The warm runner child of a worker."""
        parent = psutil.Process(self.system.services[worker].pid)
        return until(
            lambda: next((one for one in parent.children(recursive=True) if "workers.runner" in one.cmdline()), None)
        )

    def ffmpeg_of(self, worker: str) -> psutil.Process:
        """The ffmpeg that a worker's runner has started, as soon as there is one."""
        runner = self.runner_of(worker)
        return until(
            lambda: next((one for one in runner.children(recursive=True) if one.name().startswith("ffmpeg")), None)
        )


def scratch_of(root: Path) -> list[str]:
    """Everything that steps left below a scratch directory."""
    return [str(one) for one in root.rglob("*") if one.is_file()]
