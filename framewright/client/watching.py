"""Following one job to its end: server-sent events resumed by `Last-Event-ID`, polling where streams do not pass."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx

from framewright.client.failures import ApiError, Unreachable
from framewright.client.http import Http
from framewright.client.views import Event, Job

# Refusals of the stream itself (a proxy, an older server, no free stream); polling may still work.
NO_STREAM = frozenset({404, 405, 406, 415, 426, 429, 501, 502, 503, 504})
# The server sends a comment at least every 20 s, so a longer silence is a dead connection.
SILENCE_S = 45.0
# Longest pause between two looks at a job whose stream does not come.
POLL_S = 2.0


@dataclass(frozen=True, slots=True)
class Message:
    """One server-sent event as the wire has it."""

    id: str | None
    event: str
    data: str


def messages(chunks: Iterable[bytes]) -> Iterator[Message]:
    """Parse a `text/event-stream`. Lines end with LF, CRLF or CR only: JSON may hold U+2028 and the like."""
    lines: list[str] = []
    for raw in _lines(chunks):
        line = raw.decode("utf-8", "replace")
        if line:
            lines.append(line)
            continue
        message = _message(lines)
        lines.clear()
        if message:
            yield message


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        rest += chunk
        # A CR at the very end may be half of a CRLF that the next chunk completes.
        held = b"\r" if rest.endswith(b"\r") else b""
        whole = rest[: len(rest) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *complete, rest = whole.split(b"\n")
        rest += held
        yield from complete


def _message(lines: list[str]) -> Message | None:
    last_id: str | None = None
    event = "message"
    data: list[str] = []
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "id":
            last_id = value
        elif field == "event":
            event = value
        elif field == "data":
            data.append(value)
    return Message(last_id, event, "\n".join(data)) if data else None


def event_of(message: Message) -> Event | None:
    """The event in a message; something that is no JSON object is skipped, so that a newer server may add kinds."""
    try:
        body: Any = json.loads(message.data)
    except ValueError:
        return None
    if not isinstance(body, dict):
        return None
    seq = int(message.id) if message.id and message.id.isdigit() else None
    data = body.get("data")
    return Event(type=message.event, data=data if isinstance(data, dict) else {}, seq=seq, at=body.get("at"))


class Watch:
    """Iterate over the events of one job until its terminal event.

    Every durable event comes exactly once and in order, whatever happens to connections and API processes in between.
    Where streams do not pass, the job is polled and comes as `snapshot` events, the last of which is its end. Raises
    `Unreachable` when nobody has answered for `patience_s`.
    """

    def __init__(self, http: Http, job_id: str, *, after: int = 0, patience_s: float = 60.0) -> None:
        self.http = http
        self.job_id = job_id
        self.seq = after
        self.patience_s = patience_s
        self._heard = time.monotonic()
        self._streams = True

    def __iter__(self) -> Iterator[Event]:
        failures = 0
        while True:
            before = self.seq
            with suppress(Unreachable):
                for event in self._stream():
                    yield event
                    if event.terminal:
                        return
            failures = 1 if self.seq > before else failures + 1
            if failures > 1 or not self._streams:
                job = self._poll()
                if job:
                    yield Event(type="snapshot", data=job.document, seq=None)
                    if job.ended:
                        yield Event(type=job.status, data=job.document, seq=None)
                        return
            self.http.wait(min(self.http.backoff.pause_s(failures), POLL_S))

    def _stream(self) -> Iterator[Event]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(self.seq)}
        try:
            with self.http.stream(f"/jobs/{self.job_id}/events", headers=headers, read_timeout_s=SILENCE_S) as response:
                # Anything else is a 204, "nothing is left to tell", or a proxy's idea of an answer.
                self._streams = "text/event-stream" in response.headers.get("content-type", "")
                if not self._streams:
                    return
                for message in messages(self._listen(response)):
                    event = event_of(message)
                    if event is None or (event.seq is not None and event.seq <= self.seq):
                        continue
                    self.seq = event.seq if event.seq is not None else self.seq
                    yield event
        except ApiError as error:
            if error.status not in NO_STREAM or error.code == "not_found":
                raise
            self._streams = False

    def _listen(self, response: httpx.Response) -> Iterator[bytes]:
        for chunk in response.iter_bytes():
            self._heard = time.monotonic()
            yield chunk

    def _poll(self) -> Job | None:
        try:
            job = Job.of(self.http.json("GET", f"/jobs/{self.job_id}"))
        except (Unreachable, ApiError) as error:
            refused = isinstance(error, ApiError) and error.status not in NO_STREAM
            if refused or time.monotonic() - self._heard > self.patience_s:
                raise
            return None
        self._heard = time.monotonic()
        return job
