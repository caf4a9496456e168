"""Logging of every process: text or JSON lines on stderr, without secrets, and no line that forges another."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, TextIO
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from framewright.settings import Settings

MASK: Final = "***"
_SHORTEST_SECRET: Final = 6
"""Shorter values are words of ordinary lines; nobody may use them as a secret."""

_PATTERNS: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        # Our own keys keep their public id, so that a line can be traced to a key.
        (r"\b(fw_live_[0-9a-z]{1,32})_[0-9A-Za-z_-]+", rf"\1_{MASK}"),
        (r"\bwhsec_[0-9A-Za-z+/=_-]+", f"whsec_{MASK}"),
        (r"\b(bearer)([ .]|%20)\s*[0-9a-z._~+/=-]{8,}", rf"\1\2{MASK}"),
        (r"((?:authorization|cookie|x-api-key)[\"']?\s*[:=]\s*[\"']?)[^\r\n\"']*", rf"\1{MASK}"),
        (r"\b(aws4-hmac-sha256)\s[^\r\n\"']*", rf"\1 {MASK}"),
        (
            r"((?:x-amz-(?:signature|credential|security-token)|[?&](?:signature|token))(?:=|%3d))[^&\s\"'<>]+",
            rf"\1{MASK}",
        ),
        (r"([a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s/@]+@", rf"\1{MASK}@"),
    )
)
# C0 and C1 controls, line separators, bidirectional marks and overrides, zero-width characters, lone surrogates.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


class Mask:
    """Takes secrets out of text: the values of every secret setting, keys, Authorization and presigned signatures."""

    def __init__(self, settings: Settings | None = None) -> None:
        values = sorted(_secrets(settings) if settings is not None else (), key=len, reverse=True)
        self._values = re.compile("|".join(re.escape(value) for value in values)) if values else None

    def __call__(self, text: str) -> str:
        if self._values is not None:
            text = self._values.sub(MASK, text)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text


def escape(text: str) -> str:
    """Control, bidirectional and invisible characters as `\\n` or `\\u202e`; what is left is one plain line."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


class Lines(logging.Formatter):
    """Formats a record as text or JSON; masks, then escapes. Tracebacks are indented, so none looks like a line."""

    def __init__(self, mask: Mask, service: str, *, as_json: bool) -> None:
        super().__init__()
        self._mask = mask
        self._service = service
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        extra = {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        message = self._mask(record.getMessage())
        trace = self._mask(self._trace(record))
        if self._as_json:
            line: dict[str, object] = {"at": at, "level": record.levelname, "service": self._service}
            line |= {"logger": record.name, "message": message}
            if trace:
                line["trace"] = trace
            return json.dumps({**line, **{n: self._plain(value) for n, value in extra.items() if n not in line}})
        pairs = "".join(f" {name}={self._mask(str(value))}" for name, value in extra.items())
        head = f"{at} {record.levelname} {self._service} {record.name}: {escape(message + pairs)}"
        return "\n".join([head, *(f"    {escape(part)}" for part in trace.splitlines())])

    def _plain(self, value: object) -> object:
        return value if value is None or isinstance(value, bool | int | float) else self._mask(str(value))

    def _trace(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
        if record.stack_info:
            parts.append(record.stack_info)
        return "\n".join(parts)


def configure(settings: Settings, service: str, stream: TextIO | None = None) -> None:
    """Sends everything that this process logs to `stream` (stderr) as lines of `service`; replaces older handlers."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Lines(Mask(settings), service, as_json=settings.log_format == "json"))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.log_level)
    logging.captureWarnings(capture=True)
    # They log whole requests and messages when asked for DEBUG, and every request at INFO.
    for name in ("botocore", "boto3", "s3transfer", "urllib3", "httpx", "httpcore", "kombu", "amqp", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _secrets(settings: Settings) -> Iterable[str]:
    found: set[str] = set()
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if not isinstance(value, SecretStr):
            continue
        secret = value.get_secret_value()
        if "://" in secret:
            # The host and the database of a URL are no secret and help to read a line.
            password = urlsplit(secret).password
            found |= {password, unquote(password)} if password else set()
        else:
            found.add(secret)
    return {value for value in found if len(value) >= _SHORTEST_SECRET}
