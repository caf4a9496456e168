"""Errors as `application/problem+json` (RFC 9457): never the request's own text, never more than 8 kB."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from framewright.errors import FieldError, FramewrightError

MEDIA_TYPE = "application/problem+json"
MAX_BYTES = 8000
_MAX_FIELDS = 20


class Problems:
    """Turns errors into answers by one table from error class to status; a subclass without a row uses its parent's."""

    def __init__(self, statuses: Mapping[type[FramewrightError], int]) -> None:
        self._statuses = statuses

    def status(self, error: type[FramewrightError]) -> int:
        """The status of an error class; a class that the table does not know is our own fault: 500."""
        return next((self._statuses[kind] for kind in error.__mro__ if kind in self._statuses), 500)

    def answer(self, error: FramewrightError, scope: Mapping[str, Any]) -> Response:
        """The answer to an error that was raised on purpose."""
        return problem(
            self.status(type(error)),
            error.code,
            error.detail,
            scope,
            fields=error.fields,
            retryable=error.retryable,
            retry_after_s=error.retry_after_s,
            headers=getattr(error, "headers", None),
        )


def problem(
    status: int,
    code: str,
    detail: str,
    scope: Mapping[str, Any],
    *,
    fields: Sequence[FieldError] = (),
    retryable: bool = False,
    retry_after_s: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """One problem answer. `instance` is the route, not the path: an unknown id and a foreign one answer the same."""
    errors = [{"pointer": f.pointer[:400], "code": f.code, "detail": f.detail[:400]} for f in fields[:_MAX_FIELDS]]
    content = {
        "type": f"urn:framewright:problem:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail[:1000],
        "instance": route_of(scope) or "/",
        "code": code,
        "request_id": request_id(scope),
        "retryable": retryable,
        "errors": errors,
    }
    while len(body := _encoded(content)) > MAX_BYTES:
        del errors[len(errors) // 2 :]
    extra = dict(headers or {})
    if retry_after_s is not None:
        extra["Retry-After"] = str(retry_after_s)
    if status == 401:
        extra["WWW-Authenticate"] = 'Bearer realm="framewright"'
    return Response(body, status, extra, MEDIA_TYPE)


def route_of(scope: Mapping[str, Any]) -> str | None:
    """The matched route as a URI, `/api/v1/jobs/:job_id`; None before or without a match."""
    path = getattr(scope.get("route"), "path", None)
    return path.replace("{", ":").replace("}", "") if isinstance(path, str) else None


def request_id(scope: Mapping[str, Any]) -> str:
    """The id that the gate gave this request."""
    return str(scope.get("framewright.request_id", ""))


def _encoded(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
