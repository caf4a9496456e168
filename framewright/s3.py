"""The line to S3: a client with short timeouts, vendor errors as ours, and patience with an S3 that comes back."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import ipaddress
import random
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from framewright.errors import Canceled, ObjectMissing, RangeNotSatisfiable, StorageUnavailable
from framewright.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECT_TIMEOUT_S: Final = 3
READ_TIMEOUT_S: Final = 20
_MISSING: Final = frozenset({"404", "NoSuchKey", "NotFound", "NoSuchUpload"})
_TRANSIENT: Final = frozenset({"RequestTimeout", "SlowDown", "Throttling", "RequestTimeTooSkewed", "OperationAborted"})
T = TypeVar("T")


class StorageRefused(StorageUnavailable):
    """S3 answers, and says no: wrong keys, no bucket, no permission. Asking again changes nothing."""

    retryable = False


def connect(settings: Settings, endpoint: str | None) -> S3Client:
    """A client for `endpoint` (None: AWS). boto3 is imported here, because most processes never need it."""
    import boto3
    from botocore.config import Config

    access, secret = settings.s3_access_key, settings.s3_secret_key
    with translated("connect to"):
        client: S3Client = boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint,
            region_name=settings.s3_region,
            aws_access_key_id=access.get_secret_value() if access else None,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
            config=Config(
                signature_version="s3v4",
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=READ_TIMEOUT_S,
                tcp_keepalive=True,
                retries={"mode": "standard", "total_max_attempts": 2},
                max_pool_connections=16,
                # Path style and no checksum trailers: what every S3 server understands.
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                # An HTTP_PROXY of the machine must not swallow calls to the machine itself.
                proxies={} if _is_loopback(endpoint) else None,
            ),
        )
    # Several servers insist on the older header and do not know the CRC32 that botocore sends instead.
    client.meta.events.register("before-call.s3.DeleteObjects", _add_content_md5)
    return client


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turns what boto raises into `ObjectMissing`, `RangeNotSatisfiable`, `StorageRefused` or `StorageUnavailable`."""
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        CredentialRetrievalError,
        NoCredentialsError,
        PartialCredentialsError,
        ProfileNotFound,
    )

    try:
        yield
    except ClientError as error:
        raise _from_answer(doing, error.response) from error
    except (CredentialRetrievalError, NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        raise StorageRefused(f"cannot {doing} storage: no usable S3 credentials") from error
    except BotoCoreError as error:
        raise StorageUnavailable(f"cannot {doing} storage: {type(error).__name__}", retry_after_s=5) from error


class Patience:
    """Runs calls to S3 again while it is away, until `retry_s` have passed without one that worked.

    Waits 0.5 s at first and twice as long each time, up to 10 s, and asks `canceled` before every call and five times
    a second while it waits; a yes is `Canceled`.
    """

    def __init__(self, retry_s: float, canceled: Callable[[], bool] | None) -> None:
        self._retry_s = retry_s
        self._canceled = canceled or (lambda: False)
        self._failing_since: float | None = None

    def __call__(self, call: Callable[[], T]) -> T:
        pause_s = 0.5
        while True:
            self.check()
            try:
                answer = call()
            except StorageRefused:
                raise
            except StorageUnavailable:
                now = time.monotonic()
                self._failing_since = since = now if self._failing_since is None else self._failing_since
                if now + pause_s - since > self._retry_s:
                    raise
            else:
                self.worked()
                return answer
            self._wait(pause_s * random.uniform(0.75, 1.25))  # noqa: S311 - spreads callers, hides nothing
            pause_s = min(10.0, pause_s * 2)

    def worked(self) -> None:
        """Something arrived, so S3 is not away; the clock starts again at the next failure."""
        self._failing_since = None

    def check(self) -> None:
        """Raises `Canceled` when the caller was told to stop."""
        if self._canceled():
            raise Canceled("stopped while moving files")

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(0.2, left))
            self.check()


def _from_answer(doing: str, answer: Any) -> Exception:
    code = str(answer.get("Error", {}).get("Code", ""))
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "NoSuchBucket":
        return StorageRefused(f"cannot {doing} storage: the bucket does not exist")
    if code in _MISSING:
        return ObjectMissing("storage has no such object")
    if status == 416 or code == "InvalidRange":
        return RangeNotSatisfiable("the range lies outside the object")
    if status >= 500 or status == 429 or code in _TRANSIENT:
        return StorageUnavailable(f"cannot {doing} storage: it answered {status} {code}", retry_after_s=5)
    return StorageRefused(f"cannot {doing} storage: it refused with {status} {code}")


def _is_loopback(endpoint: str | None) -> bool:
    host = (urlsplit(endpoint).hostname if endpoint else None) or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _add_content_md5(params: dict[str, Any], **_: Any) -> None:
    body: bytes = params["body"]
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    params["headers"].setdefault("Content-MD5", base64.b64encode(digest).decode())
