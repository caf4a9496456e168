"""`workers`, `queues`, `models`: what the service is made of right now."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from framewright.cli.output import Out, seconds_text
from framewright.cli.target import connect


def workers(args: argparse.Namespace, out: Out) -> int:
    verb = next((verb for verb in ("drain", "pause", "resume") if getattr(args, verb)), None)
    with connect(args) as client:
        if verb:
            name = getattr(args, verb)
            out.answer(client.workers.control(name, verb), f"{name}: {verb}")
            return 0
        page = client.workers.page()
    if out.as_json:
        out.json(page.document)
    else:
        rows = [_worker(worker.document) for worker in page]
        out.table(("worker", "status", "queues", "engines", "busy with"), rows)
    return 0


def queues(args: argparse.Namespace, out: Out) -> int:
    with connect(args) as client:
        document = client.queues()
    if out.as_json:
        out.json(document)
    else:
        columns = ("queue", "waiting", "scheduled", "running", "oldest", "workers", "paused")
        out.table(columns, map(_queue, document["data"]))
    return 0


def models(args: argparse.Namespace, out: Out) -> int:
    with connect(args) as client:
        document = client.models()
    if out.as_json:
        out.json(document)
    else:
        out.table(("model", "kinds", "queue", "runs now", "about"), map(_model, document["data"]))
    return 0


def _worker(worker: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        worker["id"],
        worker["status"],
        ",".join(worker["queues"]),
        ",".join(worker["engines"]),
        ",".join(worker["running"]) or None,
    )


def _queue(queue: Mapping[str, Any]) -> tuple[object, ...]:
    oldest = queue["oldest_s"]
    return (
        queue["name"],
        queue["depth"],
        queue["scheduled"],
        queue["running"],
        None if oldest is None else seconds_text(oldest),
        queue["workers"],
        queue["paused"],
    )


def _model(model: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        model["id"],
        ",".join(model["kinds"]),
        model["queue"],
        "yes" if model["runnable_now"] else "no",
        model["title"],
    )
