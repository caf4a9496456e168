"""Why a job for a model waits: what each worker lacks, and which GPUs the model would run on."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from framewright import store
from framewright.database import Database
from framewright.rows import Presence

MODEL = "wan-2.1-t2v-1.3b"
TOO_SMALL = "it needs at least 12 GB of GPU memory, and this worker has 8 GB"


@pytest.fixture
def workers(db: Database) -> Iterator[None]:
    """Two that serve the queue: a GPU that is too small for the weights on its disk, and one without weights."""
    small = {"gpus": [{"name": "Small", "vram_mb": 8_000}], "models": {"refused": {MODEL: TOO_SMALL}}}
    bare = {"gpus": [{"name": "Large", "vram_mb": 80_000}], "models": {"refused": {}}}
    about = {"host": "h", "pid": 1, "version": "1", "kinds": (), "state": "idle", "ttl_s": 60.0}
    for name, capabilities in (("small", small), ("bare", bare)):
        presence = Presence(name, queues=("gpu",), engines=(), capabilities=capabilities, **about)  # type: ignore[arg-type]
        store.upsert_worker(db, presence)
    yield
    for name in ("small", "bare"):
        store.forget_worker(db, name)


def test_a_model_that_fits_nobody_is_explained(client: httpx.Client, workers: None) -> None:
    body = {"kind": "generate", "model": MODEL, "params": {"prompt": "a cat"}}
    job = client.post("/api/v1/jobs", json=body).raise_for_status().json()
    assert (job["status"], f"framewright models pull {MODEL}" in job["blocked_reason"]) == ("waiting", True)
    told = client.get(job["links"]["explain"]).raise_for_status().json()
    assert told["code"] == "no_capability"
    assert told["summary"].startswith(job["blocked_reason"])
    profiles = told["summary"].partition(" It runs on a GPU of at least ")[2]
    assert "GB (whole)" in profiles
    assert profiles.endswith("; there are: Large with 80 GB, Small with 8 GB.")
    assert {one["worker"]: one["why"] for one in told["steps"][0]["workers"]} == {
        "small": f"cannot run {MODEL}: {TOO_SMALL}",
        "bare": f"does not have the weights of {MODEL}",
    }
    client.delete(job["links"]["self"]).raise_for_status()
