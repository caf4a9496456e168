"""Requests that survive a restart of the other side: what is retried, for how long, and what is never sent twice."""

from __future__ import annotations

import ipaddress
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from framewright import __version__
from framewright.client.failures import ApiError, Unreachable, retry_after_s

# The server says of itself that it did nothing with these, so any method may be sent again.
REFUSED_FOR_NOW = frozenset({429, 503})
# A proxy in between does not know what happened behind it, so only a repeatable request is sent again.
UNCERTAIN = frozenset({502, 504})
REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
Query = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often and how long to try again: full jitter over `first_s * 2^n`, at most `longest_s` between two tries.

    A `Retry-After` is waited out when it is at most `longest_s`; a longer one ends the call with its error, so that the
    caller decides.
    """

    attempts: int = 5
    first_s: float = 0.25
    longest_s: float = 10.0

    def pause_s(self, failures: int, asked_s: float | None = None) -> float:
        """Seconds to wait after that many failures (1, 2, ...); never less than the server asked for."""
        ceiling = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return max(asked_s or 0.0, random.uniform(ceiling / 2, ceiling))  # noqa: S311 - jitter is no secret


def is_loopback(url: str) -> bool:
    """Whether the URL names this very machine; such calls never go through a proxy from the environment."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class Http:
    """One connection pool to one service. Raises `ApiError` for an answer of 400 and up, `Unreachable` for none."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        timeout_s: float = 30.0,
        backoff: Backoff | None = None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.backoff = backoff or Backoff()
        self.wait = wait
        headers = {"User-Agent": f"framewright/{__version__}", "Accept": "application/json"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self.client = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 5.0)),
            follow_redirects=True,
            trust_env=not is_loopback(self.base_url),
        )

    def close(self) -> None:
        self.client.close()

    def url(self, path_or_link: str) -> str:
        """The absolute URL of a path below `/api/v1`; links that the server gave are used as they are."""
        if path_or_link.startswith(("http://", "https://")):
            return path_or_link
        prefix = "" if path_or_link.startswith(("/healthz", "/readyz")) else "/api/v1"
        return f"{self.base_url}{prefix}{path_or_link}"

    def json(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        repeatable: bool | None = None,
    ) -> dict[str, Any]:
        """Send JSON, read a JSON object; an empty answer is `{}`.

        `repeatable` says that sending it twice does no harm (it carries an Idempotency-Key, or is idempotent by
        itself), so that a broken connection is tried again as well.
        """
        extra: dict[str, Any] = {} if timeout_s is None else {"timeout": timeout_s}
        if body is not None:
            extra["json"] = body
        again = method in REPEATABLE if repeatable is None else repeatable

        def send() -> httpx.Response:
            return self.client.request(method, self.url(path), params=_query(query), headers=headers, **extra)

        response = self.persist(send, repeatable=again)
        if not response.content:
            return {}
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Unreachable(f"{self.base_url} answers, but not as a Framewright API does")
        return answer

    def persist(self, send: Callable[[], httpx.Response], *, repeatable: bool) -> httpx.Response:
        """Call `send` until it succeeds, is refused for good, or `backoff.attempts` are used up."""
        failures = 0
        while True:
            failures += 1
            last = failures >= self.backoff.attempts
            try:
                response = send()
            except httpx.TransportError as error:
                # Nothing was sent when the connection was not made; otherwise it may have been acted upon.
                if last or not (repeatable or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)):
                    raise self.unreachable(error) from error
                self.wait(self.backoff.pause_s(failures))
                continue
            if response.is_success:
                return response
            asked = retry_after_s(response)
            passing = response.status_code in REFUSED_FOR_NOW or (repeatable and response.status_code in UNCERTAIN)
            if last or not passing or (asked or 0) > self.backoff.longest_s:
                raise ApiError.of(response)
            self.wait(self.backoff.pause_s(failures, asked))

    @contextmanager
    def stream(self, url: str, *, headers: Mapping[str, str], read_timeout_s: float) -> Iterator[httpx.Response]:
        """One GET whose body is read as it comes. Not retried here: the reader knows how far it got."""
        timeout = httpx.Timeout(read_timeout_s, connect=5.0)
        try:
            with self.client.stream("GET", self.url(url), headers=headers, timeout=timeout) as response:
                if not response.is_success:
                    response.read()
                    raise ApiError.of(response)
                yield response
        except httpx.TransportError as error:
            raise self.unreachable(error) from error

    def unreachable(self, error: httpx.TransportError) -> Unreachable:
        why = "did not answer in time" if isinstance(error, httpx.TimeoutException) else str(error) or "hung up"
        return Unreachable(f"cannot reach {self.base_url}: {why}")

    def send_bytes(
        self,
        method: str,
        path: str,
        chunks: Callable[[], Iterable[bytes]],
        *,
        size: int,
        content_type: str,
        query: Query | None = None,
    ) -> dict[str, Any]:
        """Send a body of known size; `chunks` is called anew for each try. A slow server is not hurried."""

        def send() -> httpx.Response:
            return self.client.request(
                method,
                self.url(path),
                params=_query(query),
                content=chunks(),
                headers={"Content-Type": content_type, "Content-Length": str(size)},
                timeout=httpx.Timeout(120.0, connect=5.0),
            )

        answer = self.persist(send, repeatable=True).json()
        return answer if isinstance(answer, dict) else {}


def _query(query: Query | None) -> dict[str, str | int | float | bool] | None:
    """Without the parameters that were not given. None leaves a query that the URL already has alone."""
    return {name: value for name, value in query.items() if value is not None} if query else None
