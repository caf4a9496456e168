"""A worker while Postgres, S3, Redis or its disk is away."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from desk import TENANT, Desk, picture, supervised
from waiting import until

from framewright import embedded, lifecycle
from framewright.database import migrate
from framewright.jobs import Outcome
from framewright.settings import Settings
from framewright.storage import Storage

pytestmark = pytest.mark.fault


@pytest.fixture(scope="module")
def own_servers(data_home):
    """Servers that these tests may stop, and start again."""
    with embedded.start(data_home / "outages", durable=False) as running:
        migrate(running.database_url)
        yield running


@pytest.fixture
def own(own_servers, tmp_path):
    """A desk on those servers."""
    named = {name.removeprefix("FRAMEWRIGHT_").lower(): value for name, value in own_servers.environment().items()}
    times = {"lease_s": 4, "renew_s": 0.2, "idle_claim_s": 0.3, "worker_ttl_s": 3, "upload_retry_s": 60}
    settings = Settings(
        **{"key_pepper": "pepper-of-the-tests-0123456789abcdef", **named, **times},
        test_engines=True,
        scratch_dir=tmp_path,
    )
    Storage(settings).ensure_bucket()
    desk = Desk(settings)
    yield desk
    desk.close()


def test_a_run_survives_a_database_that_goes_and_comes_back(own, own_servers):
    with supervised(own.settings) as worker:
        job_id = own.submit(steps=15, step_ms=100)
        own.running(job_id)
        own_servers.postgres.stop()
        # The run ends while nobody can be told, and the commit waits.
        until(lambda: len(list(own.storage.list_prefix(own.storage.job_prefix(TENANT, job_id)))) >= 2)
        assert worker.busy
        own_servers.postgres.start()
        job = own.succeeded(job_id)
        assert [attempt.n for attempt in job.attempts] == [1]


def test_a_lease_is_kept_again_once_the_database_is_back(own, own_servers, caplog):
    def lease_until():
        with own.db.connect() as connection:
            return connection.execute("SELECT lease_until FROM steps WHERE job_id = %s", (job_id,)).fetchone()[0]

    with supervised(own.settings):
        job_id = own.submit(hang_at=1)  # no checkpoint either, which would renew it too
        until(lambda: own.job(job_id).state == "running")
        own_servers.postgres.stop()
        until(lambda: "lease not renewed" in caplog.text)
        own_servers.postgres.start()
        found = lease_until()
        until(lambda: lease_until() > found)
        lifecycle.cancel(own.db, TENANT, job_id, "seen enough")


def test_a_worker_told_to_leave_goes_although_the_database_cannot_be_told(own, own_servers):
    with supervised(own.settings.model_copy(update={"drain_grace_s": 1.0})) as leaving:
        job_id = own.submit(steps=6000, step_ms=100)
        own.running(job_id)
        own_servers.postgres.stop()
        try:
            leaving.drain()
            assert leaving.join(30)
        finally:
            own_servers.postgres.start()
    lifecycle.cancel(own.db, TENANT, job_id, "seen enough")


def test_a_commit_waits_for_a_database_that_hangs(own, own_servers):
    with supervised(own.settings):
        job_id = own.submit(steps=5, step_ms=100)
        own.running(job_id)
        own_servers.postgres.pause()
        released = threading.Timer(6, own_servers.postgres.resume)
        released.start()
        released.join()
        job = own.succeeded(job_id)
        assert [attempt.n for attempt in job.attempts] == [1]


def test_an_upload_waits_for_a_store_that_is_away_within_the_same_attempt(own, own_servers):
    with supervised(own.settings):
        job_id = own.submit(stall_s=2, steps=5, step_ms=100)
        own.running(job_id)
        own_servers.s3.stop()
        until(lambda: own.job(job_id).phase == "uploading")
        # Longer than the step may stand still: the worker, not the runner, is at work.
        first = own.lease(job_id)
        until(lambda: _progress_wound(own, job_id) > 3, 20)
        own_servers.s3.start()
        job = own.succeeded(job_id)
        assert first.fence.hex in job.outputs[0].key
        assert [attempt.n for attempt in job.attempts] == [1]


def _progress_wound(desk: Desk, job_id) -> float:
    with desk.db.connect() as connection:
        row = connection.execute(
            "SELECT extract(epoch FROM progress_until - started_at)::float8 FROM steps WHERE job_id = %s", (job_id,)
        ).fetchone()
    return (row[0] or 0) - 2 if row else 0


def test_a_store_that_stays_away_ends_the_attempt_as_infrastructure(own, own_servers):
    with supervised(own.settings.model_copy(update={"upload_retry_s": 1})):
        job_id = own.submit(steps=5, step_ms=100)
        own.running(job_id)
        own_servers.s3.stop()
        until(lambda: own.outcomes(job_id))
        assert own.outcomes(job_id)[0] == Outcome.TRANSIENT_INFRA
        own_servers.s3.start()
        lifecycle.cancel(own.db, TENANT, job_id, "seen enough")


def test_a_canceled_upload_stops_and_leaves_nothing_behind(own, own_servers):
    with supervised(own.settings) as worker:
        job_id = own.submit(steps=5, step_ms=100)
        own.running(job_id)
        own_servers.s3.stop()
        until(lambda: own.job(job_id).phase == "uploading")
        lifecycle.cancel(own.db, TENANT, job_id, "changed my mind")
        until(lambda: not worker.busy, 15)
        own_servers.s3.start()
        assert list(own.storage.list_prefix(own.storage.job_prefix(TENANT, job_id))) == []
        assert list(own.storage.stale_multiparts(0)) == []


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 2 MiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root can mount a small file system here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="needs tmpfs")
@pytest.mark.parametrize("room", ["not even for the input", "for the input alone"])
def test_a_full_scratch_disk_is_told_and_nothing_of_it_published(desk, quick, tiny_disk, room):
    data = picture(size=(640, 360))
    if room == "not even for the input":
        (tiny_disk / "ballast").write_bytes(bytes((2 << 20) - len(data)))
    with supervised(quick.model_copy(update={"scratch_dir": tiny_disk})):
        job_id = desk.animate(*desk.uploaded(data, (640, 360)), seconds=4, quality=100)
        ended = until(lambda: [event for event in desk.events(job_id) if event.type == "attempt_ended"], 120)
        assert (ended[0].data["outcome"], ended[0].data["message"]) == ("transient_infra", "the scratch disk is full")
        assert list(desk.storage.list_prefix(desk.storage.job_prefix(TENANT, job_id))) == []
        lifecycle.cancel(desk.db, TENANT, job_id, "seen enough")
