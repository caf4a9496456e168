"""Why a job for a model waits: what each worker lacks, what would mend it, and what else would fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.explain import explain
from framewright import catalogue, ids, store, waiting
from framewright.database import Database
from framewright.jobs import JobState, Status, StepState
from framewright.rows import Presence

MODEL = "wan-2.1-t2v-1.3b"
TOO_SMALL = f"{MODEL} needs at least 8 GB of GPU memory, and this worker has 4 GB"
Join = Callable[..., None]


@pytest.fixture
def join(db: Database) -> Iterator[Join]:
    """Makes a live worker of the queue: the size of its GPU (MB) and what it says of the models that it refuses."""
    names: list[str] = []

    def joined(name: str, *, vram_mb: int = 0, why: tuple[str, str] | None = None, of: str = MODEL) -> None:
        told = {of: {"code": why[0], "message": why[1]}} if why else {}
        gpus = [{"name": f"GPU {name}", "vram_mb": vram_mb}] if vram_mb else []
        facts = {"gpus": gpus, "vram_mb": vram_mb, "models": {"refused": told}}
        about = {"host": "h", "pid": 1, "version": "1", "kinds": (), "state": "idle", "ttl_s": 60.0}
        presence = Presence(name, queues=("gpu",), engines=(), capabilities=facts, **about)  # type: ignore[arg-type]
        store.upsert_worker(db, presence)
        names.append(name)

    yield joined
    for name in names:
        store.forget_worker(db, name)


@pytest.fixture
def ask(client: httpx.Client) -> Iterator[Callable[[str], tuple[dict[str, Any], dict[str, Any]]]]:
    """Submits a job for a model; the job as it was answered, and its explanation."""
    links: list[str] = []

    def asked(model: str) -> tuple[dict[str, Any], dict[str, Any]]:
        body = {"kind": "generate", "model": model, "params": {"prompt": "a cat"}}
        job = client.post("/api/v1/jobs", json=body).raise_for_status().json()
        links.append(job["links"]["self"])
        read = client.get(job["links"]["self"]).raise_for_status().json()
        assert (read["blocked_code"], read["blocked_reason"]) == (job["blocked_code"], job["blocked_reason"])
        assert job["status"] == "waiting"
        told = client.get(job["links"]["explain"]).raise_for_status().json()
        assert told["code"] == job["blocked_code"]
        assert told["summary"].startswith(job["blocked_reason"])
        return job, told

    yield asked
    for link in links:
        client.delete(link).raise_for_status()


def test_weights_that_nobody_has_are_pulled_where_the_gpu_is_large_enough(ask, join: Join) -> None:
    join("small", vram_mb=4_000)
    join("large", vram_mb=80_000)
    job, told = ask(MODEL)
    assert job["blocked_code"] == "no_capability"
    assert f"with a GPU of at least 8 GB that has one, run: framewright models pull {MODEL}" in job["blocked_reason"]
    profiles = told["summary"].partition(" It runs on a GPU of at least ")[2]
    assert "GB (whole)" in profiles
    assert profiles.endswith("; there are: GPU large with 80 GB, GPU small with 4 GB.")
    assert {one["worker"]: one["why"] for one in told["steps"][0]["workers"]} == {
        "small": f"cannot run {MODEL}: {TOO_SMALL}",
        "large": f"does not have the weights of {MODEL}",
    }


def test_gpus_that_are_all_too_small_are_named_with_what_would_fit_and_nothing_is_to_be_pulled(ask, join: Join) -> None:
    model = "wan-2.1-t2v-14b"
    join("four", vram_mb=4_290)
    join("twelve", vram_mb=12_570)
    job, told = ask(model)
    assert job["blocked_code"] == "insufficient_vram"
    said = job["blocked_reason"]
    assert said.startswith(
        f"No worker in queue gpu has the memory for {model}. It runs on a GPU of at least 60 GB (whole)"
    )
    assert "there are: GPU four with 4.29 GB, GPU twelve with 12.6 GB." in said
    fitting = said.partition("These would fit: ")[2].removesuffix(".").split(", ")
    assert "ltx-video-0.9-2b" in fitting
    assert not {model, "svd", "wan-2.6"} & set(fitting)
    assert "pull" not in told["summary"]
    assert told["summary"] == said


def test_a_licence_that_nobody_accepted_is_said_with_the_command(ask, join: Join, client: httpx.Client) -> None:
    sentence = f"the licence was not accepted here; run: framewright models pull {MODEL} --accept-licence"
    join("bare", vram_mb=80_000)
    join("bound", vram_mb=80_000, why=("licence_not_accepted", sentence))
    job, _ = ask(MODEL)
    assert job["blocked_code"] == "licence_not_accepted"
    assert job["blocked_reason"] == f"No worker in queue gpu can run {MODEL}. On bound: {sentence}"
    shown = client.get(f"/api/v1/models/{MODEL}").raise_for_status().json()
    assert shown["refused_on"] == [{"worker": "bound", "code": "licence_not_accepted", "message": sentence}]
    assert not shown["runnable_now"]


def test_half_a_pull_is_worth_going_on_with_before_another_one_begins(ask, join: Join) -> None:
    join("bare", vram_mb=80_000)
    join("half", vram_mb=80_000, why=("model_not_ready", "half pulled; run: framewright models pull it"))
    assert ask(MODEL)[0]["blocked_code"] == "model_not_ready"


def test_a_machine_without_gpu_and_memory_is_no_place_either(ask, join: Join) -> None:
    join("cpu", why=("insufficient_memory", f"{MODEL} needs at least 16 GB of memory, and this worker has 2 GB"))
    job, told = ask(MODEL)
    assert job["blocked_code"] == "insufficient_vram"
    said = f"On cpu: {MODEL} needs at least 16 GB of memory, and this worker has 2 GB"
    assert job["blocked_reason"].endswith(f"; there are: none. {said}")
    assert "No other model fits" not in told["summary"]
    assert "16 GB of memory" in told["steps"][0]["workers"][0]["why"]


def test_a_machine_without_gpu_says_its_own_part_beside_gpus_that_are_too_small(ask, join: Join) -> None:
    model = "wan-2.1-t2v-14b"
    short = f"{model} needs at least 60 GB of memory, and this worker has 2 GB"
    join("cpu", why=("insufficient_memory", short), of=model)
    join("twelve", vram_mb=12_570)
    said = ask(model)[0]["blocked_reason"]
    assert "there are: GPU twelve with 12.6 GB. These would fit: " in said
    assert said.endswith(f". On cpu: {short}")


def test_a_model_of_ones_own_that_needs_no_gpu_is_not_said_to_need_one(
    db: Database, join: Join, tmp_path: Path
) -> None:
    file = tmp_path / "models.toml"
    file.write_text(f'[[model]]\nname = "mine"\nlike = "{MODEL}"\npath = "x"\nvram_mb = 0\n')
    short = "mine needs at least 16 GB of memory, and this worker has 2 GB"
    join("cpu", why=("insufficient_memory", short), of="mine")
    catalogue.install(file)
    try:
        blocked = waiting.blocked("no_capability", "gpu", "diffusion:mine", workers=store.list_workers(db))
    finally:
        catalogue.install(None)
    assert blocked is not None
    assert blocked.message == f"No worker in queue gpu has the memory for mine. On cpu: {short}"


def test_a_job_whose_step_was_handed_back_waits_and_does_not_run(ask, join: Join, db: Database) -> None:
    """The job has started, and its step is to be had again."""
    join("small", vram_mb=80_000)
    job, told = ask(MODEL)
    row = store.get_job(db, "default", ids.parse(ids.JOB, job["id"]))
    started = replace(row, state=JobState.RUNNING, status=Status.RUNNING)
    assert explain(job["id"], started, store.list_workers(db)).summary == told["summary"]
    running = replace(row.steps[0], state=StepState.RUNNING, started_at=row.created_at, worker="small", attempt=1)
    said = explain(job["id"], replace(started, steps=(running,)), ())
    assert (said.code, said.summary) == ("running", f"Running step {running.name} on small, attempt 1.")
