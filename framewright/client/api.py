"""The API's resources as Python: one method a route, links followed, URLs built in no other place."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from framewright.client import transfer
from framewright.client.http import Backoff, Http, Query
from framewright.client.views import Asset, Job, Key, Output, Page, View, Worker
from framewright.client.watching import Watch

Item = TypeVar("Item", bound=View)


class Client:
    """One service, one key. Safe to share between threads; close it or use it as a context manager.

    Calls raise `ApiError` when the service refuses and `Unreachable` when it does not answer.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        timeout_s: float = 30.0,
        backoff: Backoff | None = None,
        wait: Callable[[float], None] | None = None,
    ) -> None:
        extra: dict[str, Any] = {} if wait is None else {"wait": wait}
        self.http = Http(base_url, api_key, timeout_s=timeout_s, backoff=backoff, **extra)
        self.jobs = Jobs(self.http)
        self.assets = Assets(self.http)
        self.keys = Keys(self.http)
        self.workers = Workers(self.http)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.http.close()

    def queues(self) -> dict[str, Any]:
        """Depth, age and workers of each queue."""
        return self.http.json("GET", "/queues")

    def models(self) -> dict[str, Any]:
        """The catalogue: what each model takes and whether a live worker can run it."""
        return self.http.json("GET", "/models")

    def estimate(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Memory, seconds and wait of a job that is not submitted."""
        return self.http.json("POST", "/estimate", body=dict(request), repeatable=True)

    def verify_file(self, path: Path, *, progress: transfer.Transferred | None = None) -> dict[str, Any]:
        """What a file here says of its making, and whether that holds; see `POST /verify`."""
        return transfer.verify(self.http, path, progress=progress)

    def verify_asset(self, asset_id: str) -> dict[str, Any]:
        """The same of a file that is stored there."""
        return self.http.json("POST", "/verify", body={"asset": asset_id}, repeatable=True, timeout_s=120.0)

    def clock(self) -> datetime | None:
        """The service's time, to the second, from any answer of it."""
        response = self.http.persist(lambda: self.http.client.get(self.http.url("/healthz")), repeatable=True)
        date = response.headers.get("date")
        return parsedate_to_datetime(date) if date else None

    def ready(self) -> dict[str, Any]:
        """Whether the service takes jobs; `ApiError` 503 says which part is down."""
        return self.http.json("GET", "/readyz")


class Jobs:
    def __init__(self, http: Http) -> None:
        self.http = http

    def create(self, request: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Submit a job exactly once: retries carry the same Idempotency-Key, made here unless the caller has one."""
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return Job.of(self.http.json("POST", "/jobs", body=dict(request), headers=headers, repeatable=True))

    def get(self, job_id: str, *, wait_s: int = 0) -> Job:
        """The job now, or as soon as it ends within `wait_s` seconds (the server caps how long it holds on)."""
        headers = {"Prefer": f"wait={wait_s}"} if wait_s else None
        return Job.of(self.http.json("GET", f"/jobs/{job_id}", headers=headers, timeout_s=wait_s + 30.0))

    def page(self, query: Query | None = None) -> Page[Job]:
        return _page(self.http, "/jobs", Job, query)

    def all(self, query: Query | None = None) -> Iterator[Job]:
        """Every job that matches, page by page as they are asked for."""
        return _all(self.page, query)

    def watch(self, job_id: str, *, after: int = 0, patience_s: float = 60.0) -> Watch:
        """Events with `seq > after`, then live ones, until the job has ended."""
        return Watch(self.http, job_id, after=after, patience_s=patience_s)

    def cancel(self, job_id: str, *, reason: str | None = None) -> Job:
        """Final at once for an open job; an ended one is answered as it is."""
        body = {"reason": reason} if reason else None
        return Job.of(self.http.json("POST", f"/jobs/{job_id}/cancel", body=body, repeatable=True))

    def retry(self, job_id: str, *, idempotency_key: str | None = None) -> Job:
        """A new job like an ended one."""
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return Job.of(self.http.json("POST", f"/jobs/{job_id}/retry", headers=headers, repeatable=True))

    def patch(self, job_id: str, changes: Mapping[str, Any]) -> Job:
        """Change priority, run_at or metadata of a job that still waits."""
        return Job.of(self.http.json("PATCH", f"/jobs/{job_id}", body=dict(changes), repeatable=True))

    def delete(self, job_id: str) -> None:
        """Cancel it if it is open, then forget it and its outputs."""
        self.http.json("DELETE", f"/jobs/{job_id}")

    def explain(self, job_id: str) -> dict[str, Any]:
        """Why it waits and where it would run."""
        return self.http.json("GET", f"/jobs/{job_id}/explain")

    def attempts(self, job_id: str) -> dict[str, Any]:
        return self.http.json("GET", f"/jobs/{job_id}/attempts")

    def download(
        self,
        output: Output,
        destination: Path,
        *,
        progress: transfer.Transferred | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Fetch one output of a job, resumed and checked; see `transfer.download`."""
        return transfer.download(
            self.http,
            str(output.links["content"]),
            destination,
            size=output.size,
            sha256=output.sha256,
            progress=progress,
            overwrite=overwrite,
        )


class Assets:
    def __init__(self, http: Http) -> None:
        self.http = http

    def put(
        self, path: Path, *, content_type: str | None = None, progress: transfer.Transferred | None = None
    ) -> Asset:
        return transfer.upload(self.http, path, content_type=content_type, progress=progress)

    def page(self, query: Query | None = None) -> Page[Asset]:
        return _page(self.http, "/assets", Asset, query)

    def all(self, query: Query | None = None) -> Iterator[Asset]:
        """Every asset, page by page as they are asked for."""
        return _all(self.page, query)

    def get(self, asset_id: str) -> Asset:
        return Asset.of(self.http.json("GET", f"/assets/{asset_id}"))

    def delete(self, asset_id: str) -> None:
        self.http.json("DELETE", f"/assets/{asset_id}")

    def download(
        self,
        asset: Asset,
        destination: Path,
        *,
        progress: transfer.Transferred | None = None,
        overwrite: bool = False,
    ) -> Path:
        return transfer.download(
            self.http,
            str(asset.links["content"]),
            destination,
            size=asset.size,
            sha256=asset.sha256,
            progress=progress,
            overwrite=overwrite,
        )


class Keys:
    def __init__(self, http: Http) -> None:
        self.http = http

    def create(self, request: Mapping[str, Any]) -> Key:
        """A new key; its secret is in this answer and never again, so a lost answer is not asked for twice."""
        return Key.of(self.http.json("POST", "/api-keys", body=dict(request)))

    def page(self, query: Query | None = None) -> Page[Key]:
        return _page(self.http, "/api-keys", Key, query)

    def revoke(self, key_id: str) -> None:
        self.http.json("DELETE", f"/api-keys/{key_id}")


class Workers:
    def __init__(self, http: Http) -> None:
        self.http = http

    def page(self) -> Page[Worker]:
        return _page(self.http, "/workers", Worker, None)

    def control(self, worker_id: str, verb: str) -> dict[str, Any]:
        """`drain`, `pause` or `resume` one worker; it obeys at its next renewal or claim."""
        return self.http.json("POST", f"/workers/{worker_id}/{verb}", repeatable=True)


def _page(http: Http, path: str, item: type[Item], query: Query | None) -> Page[Item]:
    document = http.json("GET", path, query=query)
    return Page(
        data=tuple(item.of(entry) for entry in document.get("data", ())),
        has_more=bool(document.get("has_more", False)),
        last_id=document.get("last_id"),
        document=document,
    )


def _all(page: Callable[[Query], Page[Item]], query: Query | None) -> Iterator[Item]:
    asked = dict(query or {})
    while True:
        found = page(asked)
        yield from found
        if not found.has_more or not found.last_id:
            return
        asked["after"] = found.last_id
