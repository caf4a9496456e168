"""`up` and `demo`: the whole service on this machine, and one job through it."""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from framewright.cli.exits import Interrupted, UsageError, of_job
from framewright.cli.following import follow
from framewright.cli.making import ANIMATE_FLAGS, existing, fetch, file_line, job_line, params, upload
from framewright.cli.output import Out, seconds_text
from framewright.cli.spelling import typed
from framewright.cli.target import announce, withdraw
from framewright.client import Client, Job
from framewright.client.transfer import free_name
from framewright.embedded import default_data_dir
from framewright.errors import FramewrightError
from framewright.local import System

MODEL = "camera-move"
HONEST = "camera-move slides and zooms a camera over the one picture. It invents nothing that is not in it."


@dataclass(frozen=True, slots=True)
class Made:
    """What became of the demo's job."""

    job: Job
    lines: tuple[str, ...]
    file: Path | None = None


def up(args: argparse.Namespace, out: Out) -> int:
    """Run until SIGINT or SIGTERM; both are the normal end, so the status is 0."""
    data: Path = args.data or default_data_dir()
    out.note(f"Starting Postgres, Valkey, S3, the API and {args.workers} worker(s) on {data}")
    with (
        suppress(KeyboardInterrupt),
        one_interrupt(out),
        System(data, port=args.port, workers=args.workers) as system,
        _announced(system),
    ):
        ready = {"url": system.url, "api_key": system.api_key, "data": str(system.data_dir), "pids": system.pids}
        out.answer(ready, *_ready_lines(system))
        threading.Event().wait()
    return 0


def demo(args: argparse.Namespace, out: Out) -> int:
    """One picture, the real path, one video; then nothing is left running."""
    data: Path = args.data or default_data_dir().with_name("framewright-demo")
    given: Path | None = existing(args.image) if args.image else None
    wished: Path = args.output or (given or Path("demo.jpg")).with_suffix(f".{MODEL}.mp4")
    if not wished.parent.is_dir():
        raise UsageError(f"{wished.parent}: no such folder")
    with one_interrupt(out), as_file(files("framewright") / "assets" / "demo.jpg") as ours:
        began = time.monotonic()
        out.note("Starting Postgres, Valkey, S3, the API and a worker")
        with System(data) as system, Client(system.url, system.api_key) as client:
            out.note(f"Ready in {seconds_text(time.monotonic() - began)}")
            made = _one_job(client, args, given or ours, wished, out)
            document = {"job": made.job.document, "file": str(made.file) if made.file else None}
            if args.keep:
                with suppress(KeyboardInterrupt), _announced(system):
                    out.answer(document | {"url": system.url}, *made.lines, *_ready_lines(system))
                    threading.Event().wait()
                return of_job(made.job.status)
            out.note("Stopping what was started")
    out.answer(document, *made.lines)
    return of_job(made.job.status)


@contextmanager
def one_interrupt(out: Out) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP are each a `KeyboardInterrupt`, once: nothing cuts the stopping short.

    It is answered at once, for the stopping takes seconds.
    """
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupted(*_: object) -> None:
        for number in wanted:
            signal.signal(number, signal.SIG_IGN)
        if not out.as_json:
            # Past Python's buffers: what was interrupted may be in the middle of writing to them.
            with suppress(OSError):
                os.write(2, b"\nStopping what was started\n" if os.isatty(2) else b"Stopping what was started\n")
        raise KeyboardInterrupt

    before = [(number, signal.signal(number, interrupted)) for number in wanted]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def _announced(system: System) -> Iterator[None]:
    """Let commands in other terminals find this service."""
    written = announce(system.data_dir, system.url, system.api_key)
    try:
        yield
    finally:
        withdraw(written)


def _one_job(client: Client, args: argparse.Namespace, picture: Path, wished: Path, out: Out) -> Made:
    image = upload(client, picture, out)
    request = {"kind": "animate", "model": MODEL, "input": {"image": image}, "params": params(args, ANIMATE_FLAGS)}
    job = client.jobs.create(request)
    try:
        job = follow(client, job, out)
    except Interrupted:
        # Else the next run would first have to finish this one.
        with suppress(FramewrightError):
            client.jobs.cancel(job.id, reason="the demo was interrupted")
        raise Interrupted("interrupted; nothing is left running") from None
    if job.status != "succeeded":
        return Made(job, (job_line(job),))
    output = job.outputs[0]
    path = fetch(client, output, free_name(wished), out)
    return Made(job, (file_line(path, output), HONEST, _go_on()), path)


def _ready_lines(system: System) -> list[str]:
    return [
        f"Framewright runs at {system.url} (every route: {system.url}/api/v1/openapi.json)",
        f"API key: {system.api_key}",
        f"In another terminal: {typed()} animate photo.jpg; {typed()} jobs ls",
        "Ctrl-C here stops it.",
    ]


def _go_on() -> str:
    return f"Go on: `{typed()} up` (make up) keeps the service running; `{typed()} demo --help` lists other moves."
