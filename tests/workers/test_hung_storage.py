"""A storage that hangs: the hard limit of a step counts while files move, and a crash leaves nothing for good."""

from __future__ import annotations

import os
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from desk import TENANT, Desk, picture, supervised
from waiting import until

from framewright import embedded
from framewright.database import migrate
from framewright.settings import Settings
from framewright.storage import Storage
from workers.janitor import Janitor

pytestmark = pytest.mark.fault

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def own_servers(data_home):
    """Servers that these tests may freeze."""
    with embedded.start(data_home / "hung", durable=False) as running:
        migrate(running.database_url)
        yield running


@pytest.fixture
def environment(own_servers, tmp_path) -> dict[str, str]:
    return {
        **own_servers.environment(),
        "FRAMEWRIGHT_KEY_PEPPER": "pepper-of-the-tests-0123456789abcdef",
        "FRAMEWRIGHT_TEST_ENGINES": "true",
        "FRAMEWRIGHT_SCRATCH_DIR": str(tmp_path),
        "FRAMEWRIGHT_LEASE_S": "4",
        "FRAMEWRIGHT_RENEW_S": "0.2",
        "FRAMEWRIGHT_IDLE_CLAIM_S": "0.3",
        "FRAMEWRIGHT_WORKER_TTL_S": "3",
    }


@pytest.fixture
def own(environment):
    """A desk on those servers."""
    named = {name.removeprefix("FRAMEWRIGHT_").lower(): value for name, value in environment.items()}
    settings = Settings(**named)
    Storage(settings).ensure_bucket()
    desk = Desk(settings)
    yield desk
    desk.close()


def held_until(desk: Desk, job_id) -> float:
    """When the lease of the job's step runs out; 0 when nobody holds it."""
    with desk.db.connect() as connection:
        row = connection.execute(
            "SELECT extract(epoch FROM lease_until)::float8 FROM steps WHERE job_id = %s", (job_id,)
        ).fetchone()
    return (row[0] or 0) if row else 0


def renewed_then_timed_out(desk: Desk, job_id) -> str:
    """Sees a renewal of the first attempt, then its end, and answers what was said of it."""
    first = until(lambda: held_until(desk, job_id))
    until(lambda: held_until(desk, job_id) > first)
    until(lambda: desk.outcomes(job_id))
    ended = next(event.data for event in desk.events(job_id) if event.type == "attempt_ended")
    assert ended["outcome"] == "timeout"
    return ended["message"]


def test_a_download_that_hangs_ends_with_the_steps_time(own, own_servers):
    name, facts = own.uploaded(picture())
    own_servers.s3.pause()
    try:
        with supervised(own.settings):
            job_id = own.submit(
                kind="animate", model="camera-move", input={"image": name}, assets={name: facts}, timeout=2,
                params={"move": "zoom-in", "seconds": 0.5, "fps": 8, "size": "192x128"},
            )  # fmt: skip
            assert renewed_then_timed_out(own, job_id).endswith("it was downloading")
            job = own.ended(job_id)
            assert (job.error.code, own.outcomes(job_id)) == ("timeout", ["timeout", "timeout"])
    finally:
        own_servers.s3.resume()


def test_an_upload_that_hangs_ends_with_the_steps_time_and_the_next_attempt_goes_through(own, own_servers):
    with supervised(own.settings):
        job_id = own.submit(timeout=6, steps=10, step_ms=100)
        own.running(job_id)
        own_servers.s3.pause()
        try:
            assert renewed_then_timed_out(own, job_id).endswith("it was uploading")
        finally:
            own_servers.s3.resume()
        job = own.succeeded(job_id)
    assert [attempt.outcome for attempt in job.attempts] == ["timeout", "succeeded"]


class _Trickle(socketserver.StreamRequestHandler):
    """Answers with a byte now and then, for ever: no read from it ever times out."""

    def handle(self) -> None:
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nETag: "x"\r\n\r\n')
        while not self.server.closing.wait(0.1):  # type: ignore[attr-defined]
            self.wfile.write(b"x")


def test_a_download_that_trickles_ends_with_the_steps_time(own):
    name, facts = own.uploaded(picture("brown"))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Trickle) as slow:
        slow.daemon_threads = True
        slow.closing = threading.Event()  # type: ignore[attr-defined]
        threading.Thread(target=slow.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{slow.server_address[1]}"
        try:
            with supervised(own.settings.model_copy(update={"s3_endpoint": endpoint})):
                job_id = own.submit(
                    kind="animate", model="camera-move", input={"image": name}, assets={name: facts}, timeout=2,
                    params={"move": "zoom-in", "seconds": 0.5, "fps": 8, "size": "192x128"},
                )  # fmt: skip
                assert renewed_then_timed_out(own, job_id).endswith("it was downloading")
        finally:
            slow.closing.set()  # type: ignore[attr-defined]
            slow.shutdown()


@pytest.fixture
def crashing(environment, tmp_path):
    """A worker process that a test may kill, and what it wrote."""
    log = tmp_path / "worker.log"
    with log.open("wb") as out:
        process = psutil.Popen(
            [sys.executable, "-m", "workers.start"], cwd=ROOT, env={**os.environ, **environment}, stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    yield process, log
    for one in (*_family(process), process):
        one.kill()
    process.wait(10)


def _family(process: psutil.Popen) -> list[psutil.Process]:
    return process.children(recursive=True) if process.is_running() else []


def test_checkpoints_of_a_worker_that_dies_right_after_its_commit_are_swept(own, own_servers, crashing):
    worker, log = crashing
    job_id = own.submit(steps=12, step_ms=150, checkpoint_kb=1)

    def stored() -> set[str]:
        return {listed.key for listed in own.storage.list_prefix(own.storage.job_prefix(TENANT, job_id))}

    until(lambda: any("/checkpoint/" in key for key in stored()))
    # The files are uploaded, the commit waits for Postgres; then S3 hangs, so the tidying after the commit does too.
    own_servers.postgres.pause()
    until(lambda: b"trying again" in log.read_bytes() and any("/checkpoint/" not in key for key in stored()))
    own_servers.s3.pause()
    own_servers.postgres.resume()
    own.ended(job_id)
    for one in (*_family(worker), worker):
        one.kill()
    # What the worker asked for last is lost with its connection.
    own_servers.s3.kill()
    own_servers.s3.start()
    job = own.succeeded(job_id)
    left = stored()
    assert any("/checkpoint/" in key for key in left)
    janitor = Janitor(own.settings, own.db, own.storage)
    janitor.sweep_attempts()
    assert stored() == left  # its worker may still be at work
    with own.db.connect() as connection:
        connection.execute(
            "UPDATE attempts SET sweep_at = clock_timestamp() WHERE job_id = %s AND sweep_at IS NOT NULL", (job_id,)
        )
    for _ in range(2):
        janitor.sweep_attempts()
        assert stored() == {output.key for output in job.outputs}
