"""What a call can end with when it does not end well: refused, unreachable, or a file that is not the one promised."""

from __future__ import annotations

import contextlib
from typing import Any

import httpx

from framewright.errors import FieldError, FramewrightError


class ApiError(FramewrightError):
    """The service answered, and the answer is no. `code` is the server's, so it tells refusals apart."""

    code = "api_error"

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        code: str,
        fields: tuple[FieldError, ...] = (),
        retryable: bool = False,
        retry_after_s: int | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(detail, fields=fields, retry_after_s=retry_after_s)
        self.status = status
        self.code = code  # type: ignore[misc] # one class stands for every code the server has
        self.retryable = retryable  # type: ignore[misc]
        self.request_id = request_id

    @classmethod
    def of(cls, response: httpx.Response) -> ApiError:
        """The error that a response (already read) tells of; anything but problem+json keeps its status alone."""
        problem: dict[str, Any] = {}
        with contextlib.suppress(ValueError):
            body = response.json()
            problem = body if isinstance(body, dict) else {}
        entries = problem.get("errors")
        fields = tuple(
            FieldError(str(e.get("pointer", "")), str(e.get("code", "")), str(e.get("detail", "")))
            for e in (entries if isinstance(entries, list) else [])
            if isinstance(e, dict)
        )
        detail = problem.get("detail") or problem.get("title") or f"HTTP {response.status_code}"
        return cls(
            str(detail),
            status=response.status_code,
            code=str(problem.get("code") or f"http_{response.status_code}"),
            fields=fields,
            retryable=bool(problem.get("retryable", False)),
            retry_after_s=retry_after_s(response),
            request_id=problem.get("request_id") or response.headers.get("x-request-id"),
        )


class Unreachable(FramewrightError):
    """Nobody answers at that address, or the connection broke more often than the client retries."""

    code = "unreachable"
    retryable = True


class DownloadCorrupt(FramewrightError):
    """The bytes that arrived are not the ones the service promised (size or SHA-256)."""

    code = "download_corrupt"
    retryable = True


def retry_after_s(response: httpx.Response) -> int | None:
    """The seconds form of `Retry-After`, the only one this service sends."""
    text = response.headers.get("retry-after", "").strip()
    return int(text) if text.isdigit() else None
