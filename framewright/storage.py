"""Files in any S3: fenced keys, whole uploads or none, presigned links, and what the janitor needs. Never copies."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote
from uuid import UUID

from framewright.errors import ObjectMissing, RangeNotSatisfiable, StorageUnavailable
from framewright.s3 import Patience, StorageRefused, connect, translated
from framewright.settings import Settings
from framewright.transfer import Fetch, Upload, chunks

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MAX_PRESIGN_S: Final = 900
_MD5_ETAG: Final = re.compile(r'"?([0-9a-f]{32})"?')
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Head:
    """What S3 says of one object; `sha256` is there when we uploaded it."""

    key: str
    size: int
    etag: str
    content_type: str
    modified: datetime
    sha256: bytes | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a listing; `size` in bytes."""

    key: str
    size: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Multipart:
    """An upload in parts that was begun and neither completed nor aborted."""

    key: str
    upload_id: str
    started: datetime


def asset_key(tenant: str, asset: UUID) -> str:
    """Where an uploaded input lives."""
    return f"t/{_name(tenant)}/a/{asset.hex}"


def job_prefix(tenant: str, job: UUID) -> str:
    """Everything of one job."""
    return f"t/{_name(tenant)}/j/{job.hex}/"


def output_prefix(tenant: str, job: UUID, step: str, fence: UUID) -> str:
    """Everything of one attempt: no two attempts ever write the same key."""
    return f"{job_prefix(tenant, job)}s/{_name(step)}/{fence.hex}/"


def checkpoint_prefix(tenant: str, job: UUID, step: str, fence: UUID) -> str:
    """The checkpoints of one attempt, beside its files."""
    return f"{output_prefix(tenant, job, step, fence)}checkpoint/"


def output_key(tenant: str, job: UUID, step: str, fence: UUID, name: str) -> str:
    """Where an attempt puts its file `name`."""
    return output_prefix(tenant, job, step, fence) + _name(name)


class Storage:
    """One bucket; safe to share between threads.

    Every call may raise `StorageUnavailable`; its subclass `s3.StorageRefused` means that trying again is useless.
    """

    asset_key = staticmethod(asset_key)
    job_prefix = staticmethod(job_prefix)
    output_prefix = staticmethod(output_prefix)
    checkpoint_prefix = staticmethod(checkpoint_prefix)
    output_key = staticmethod(output_key)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._bucket = settings.s3_bucket
        self._part_bytes = settings.s3_multipart_mb * 1024 * 1024
        self._clients: dict[str | None, S3Client] = {}
        self._connecting = threading.Lock()

    def ensure_bucket(self) -> None:
        """Makes the bucket when it is missing."""
        client = self._client()
        try:
            self.ping()
        except ObjectMissing:
            region = self._settings.s3_region
            elsewhere: Any = {"CreateBucketConfiguration": {"LocationConstraint": region}}
            with translated("create a bucket in"), contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=self._bucket, **({} if region == "us-east-1" else elsewhere))

    def ping(self) -> None:
        """Raises `ObjectMissing` when the bucket does not exist, `StorageUnavailable` when nobody answers."""
        with translated("reach"):
            self._client().head_bucket(Bucket=self._bucket)

    def close(self) -> None:
        """Closes idle connections; the next call opens new ones."""
        with self._connecting:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def put_file(
        self,
        key: str,
        path: Path,
        content_type: str,
        *,
        sha256: bytes,
        canceled: Callable[[], bool] | None = None,
        progress: Callable[[int], None] | None = None,
        retry_s: float | None = None,
    ) -> Head:
        """Uploads a file whose SHA-256 is already known and makes sure that S3 holds all of it.

        `progress` hears the bytes sent so far. Waits up to `retry_s` (default: the setting `upload_retry_s`) for an S3
        that is away. `canceled` is asked between parts and while waiting; a yes is `Canceled`, and nothing is left.
        """
        patience = Patience(self._settings.upload_retry_s if retry_s is None else retry_s, canceled)
        sent = progress or (lambda _: None)
        size = path.stat().st_size
        about: dict[str, Any] = {"ContentType": content_type, "Metadata": {"sha256": sha256.hex()}}
        md5: bytes | None = None
        with path.open("rb") as file:
            upload = Upload(self._client(), self._where(key), about, file)
            if size > self._part_bytes:
                upload.in_parts(size, self._part_bytes, patience, sent)
            else:
                md5 = digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()
                patience(lambda: upload.whole(size, digest))
                sent(size)
        head = patience(lambda: self.head(key))
        if head is None or head.size != size:
            raise StorageUnavailable(f"storage holds {head.size if head else 'nothing'} of {size} bytes of an upload")
        found = _MD5_ETAG.fullmatch(head.etag)
        if md5 and found and found[1] != md5.hex():
            raise StorageUnavailable("storage holds other bytes than were uploaded")
        return head

    def get_file(
        self, key: str, path: Path, *, canceled: Callable[[], bool] | None = None, retry_s: float | None = None
    ) -> int:
        """Downloads an object to `path` and returns its size in bytes; goes on where it was when S3 drops the line."""
        patience = Patience(self._settings.upload_retry_s if retry_s is None else retry_s, canceled)
        with path.open("wb") as file:
            patience(Fetch(self._client(), self._where(key), file, patience).rest)
            return file.tell()

    def open(self, key: str, start: int = 0, end: int | None = None) -> Generator[bytes, None, None]:
        """Bytes `start`..`end` (both included, as in HTTP) in chunks. The call itself raises what a missing object or
        an impossible range raises; reading raises `StorageUnavailable` when the line drops."""
        if start == 0 and end is None:
            return self._read(key, {})
        try:
            return self._read(key, {"Range": f"bytes={start}-{'' if end is None else end}"})
        except StorageRefused:
            # Some servers refuse every range that reaches past the end, where others answer 416 or cut it.
            head = self.head(key)
            if head is None:
                raise ObjectMissing("storage has no such object") from None
            if start >= head.size:
                raise RangeNotSatisfiable("the range lies outside the object") from None
            if end is None or end < head.size:
                raise
        return self._read(key, {"Range": f"bytes={start}-"})

    def head(self, key: str) -> Head | None:
        """What S3 knows of the object, or None when there is none."""
        try:
            with translated("look into"):
                found = self._client().head_object(Bucket=self._bucket, Key=key)
        except ObjectMissing:
            return None
        sha256 = found.get("Metadata", {}).get("sha256", "")
        return Head(
            key=key,
            size=found["ContentLength"],
            etag=found.get("ETag", ""),
            content_type=found.get("ContentType", "application/octet-stream"),
            modified=found["LastModified"],
            sha256=bytes.fromhex(sha256) if re.fullmatch(r"[0-9a-f]{64}", sha256) else None,
        )

    def presign_get(self, key: str, filename: str, content_type: str, expires_s: float | None = None) -> str:
        """A link to download the object as attachment `filename` with this content type; lives 15 minutes at most."""
        about = {"ResponseContentDisposition": attachment(filename), "ResponseContentType": content_type}
        return self._presign("get_object", {"Key": key, **about}, expires_s)

    def presign_put(self, key: str, size: int, content_type: str, expires_s: float | None = None) -> str:
        """A link to upload exactly `size` bytes with exactly this content type; both are part of the signature."""
        return self._presign("put_object", {"Key": key, "ContentLength": size, "ContentType": content_type}, expires_s)

    def delete(self, keys: Iterable[str]) -> int:
        """Deletes objects, a thousand a call, and returns how many were named; missing ones are no error."""
        rest, count = iter(keys), 0
        while batch := list(islice(rest, 1000)):
            with translated("delete from"):
                objects = [{"Key": key} for key in batch]
                answer = self._client().delete_objects(
                    Bucket=self._bucket,
                    Delete={"Objects": objects, "Quiet": True},  # type: ignore[typeddict-item]
                )
            if failed := answer.get("Errors"):
                raise StorageUnavailable(f"storage kept {len(failed)} objects: {failed[0].get('Code', 'unknown')}")
            count += len(batch)
        return count

    def delete_prefix(self, prefix: str) -> int:
        """Deletes all objects under `prefix`, which must end with "/", or the neighbours would go too."""
        if not prefix.endswith("/") or not prefix.strip("/"):
            raise ValueError(f"not a prefix to delete: {prefix!r}")
        return self.delete(listed.key for listed in self.list_prefix(prefix))

    def list_prefix(self, prefix: str) -> Iterator[Listed]:
        """All objects whose keys start with `prefix`, by key."""
        for page in self._pages("list_objects_v2", Prefix=prefix):
            for found in page.get("Contents", ()):
                yield Listed(found["Key"], found["Size"], found["LastModified"])

    def stale_multiparts(self, older_than_s: float) -> Iterator[Multipart]:
        """Uploads in parts that were begun more than `older_than_s` ago and are still open."""
        limit = datetime.now(UTC) - timedelta(seconds=older_than_s)
        for page in self._pages("list_multipart_uploads"):
            for found in page.get("Uploads", ()):
                if found["Initiated"] <= limit:
                    yield Multipart(found["Key"], found["UploadId"], found["Initiated"])

    def abort_multipart(self, upload: Multipart) -> None:
        """Drops the parts of an open upload; one that is gone is no error."""
        with contextlib.suppress(ObjectMissing), translated("clean up"):
            self._client().abort_multipart_upload(Bucket=self._bucket, Key=upload.key, UploadId=upload.upload_id)

    def _client(self, endpoint: str | None = None) -> S3Client:
        wanted = endpoint or self._settings.s3_endpoint
        # boto's sessions are not made for two threads, its clients are.
        with self._connecting:
            if wanted not in self._clients:
                self._clients[wanted] = connect(self._settings, wanted)
            return self._clients[wanted]

    def _read(self, key: str, span: dict[str, Any]) -> Generator[bytes, None, None]:
        with translated("read from"):
            body = self._client().get_object(**self._where(key), **span)["Body"]
        return chunks(body)

    def _where(self, key: str) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": key}

    def _presign(self, operation: Any, params: dict[str, Any], expires_s: float | None) -> str:
        expires = min(int(self._settings.presign_s if expires_s is None else expires_s), MAX_PRESIGN_S)
        with translated("sign links to"):
            return self._client(self._settings.s3_public_endpoint).generate_presigned_url(
                operation, Params={"Bucket": self._bucket, **params}, ExpiresIn=max(1, expires)
            )

    def _pages(self, operation: Any, **asked: Any) -> Iterator[Any]:
        with translated("list"):
            yield from self._client().get_paginator(operation).paginate(Bucket=self._bucket, **asked)


def attachment(filename: str) -> str:
    """A Content-Disposition that saves as `filename`, whatever characters it has (RFC 6266)."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", filename).strip() or "file"
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='', errors='replace')}"


def _name(part: str) -> str:
    if not _NAME.fullmatch(part):
        raise ValueError(f"not a part of a storage key: {part!r}")
    return part
