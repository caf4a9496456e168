"""`jobs`: list, show, follow, steer and fetch."""

from __future__ import annotations

import argparse
import mimetypes
import re
from datetime import datetime
from itertools import islice
from pathlib import Path

from framewright.cli.exits import Interrupted, UsageError, about, of_job
from framewright.cli.following import follow, waiting_text
from framewright.cli.making import fetch, file_line, job_line
from framewright.cli.output import MORE, Out, listed, picture_text, size_text
from framewright.cli.target import connect
from framewright.client import Client, Job, Output
from framewright.client.transfer import free_name

PAGE = 100

_ENDINGS = {"audio/wav": ".wav", "application/c2pa": ".c2pa"}  # not known everywhere


def ls(args: argparse.Namespace, out: Out) -> int:
    query = {
        "status": args.status,
        "kind": args.kind,
        "model": args.model,
        "limit": min(args.limit + 1, PAGE),
        "order": "asc" if args.oldest_first else "desc",
        **{f"metadata[{name}]": value for name, value in args.meta},
    }
    with connect(args) as client:
        found = list(islice(client.jobs.all(query), args.limit + 1))
    found, more = found[: args.limit], len(found) > args.limit
    if out.as_json:
        out.json(listed(found, more=more))
    else:
        out.table(("job", "status", "kind", "model", "done", "created", "about"), map(_row, found), coloured=1)
        if more:
            out.note(MORE)
    return 0


def get(args: argparse.Namespace, out: Out) -> int:
    with connect(args) as client:
        job = client.jobs.get(args.job, wait_s=args.wait)
    out.answer(job.document, *_lines(job))
    return of_job(job.status)


def watch(args: argparse.Namespace, out: Out) -> int:
    with connect(args) as client:
        if out.as_json:
            return _events(client, args, out)
        job = follow(client, client.jobs.get(args.job), out)
    out.answer(job.document, *_lines(job))
    return of_job(job.status)


def cancel(args: argparse.Namespace, out: Out) -> int:
    with connect(args) as client:
        for job_id in args.jobs:
            with about(job_id):
                job = client.jobs.cancel(job_id, reason=args.reason)
            out.answer(job.document, job_line(job))
    return 0


def rm(args: argparse.Namespace, out: Out) -> int:
    with connect(args) as client:
        for job_id in args.jobs:
            with about(job_id):
                client.jobs.delete(job_id)
            out.answer({"id": job_id, "deleted": True}, f"{job_id} deleted")
    return 0


def retry(args: argparse.Namespace, out: Out) -> int:
    with connect(args) as client:
        job = client.jobs.retry(args.job)
        if args.watch:
            out.note(job.id)
            job = follow(client, job, out)
    out.answer(job.document, job_line(job))
    return of_job(job.status)


def explain(args: argparse.Namespace, out: Out) -> int:
    with connect(args) as client:
        document = client.jobs.explain(args.job)
    lines = [document["summary"]]
    for step in document["steps"]:
        needs = f", waits for {', '.join(step['waits_for'])}" if step["waits_for"] else ""
        lines.append(f"step {step['step']}: {step['state']}, queue {step['queue']}{needs}")
        lines += [f"  {one['worker']}: {'can' if one['able'] else 'cannot'}: {one['why']}" for one in step["workers"]]
    out.answer(document, *lines)
    return 0


def download(args: argparse.Namespace, out: Out) -> int:
    """Fetch every output under names of its own; with -o the first one, the video, goes where it says."""
    with connect(args) as client:
        job = client.jobs.get(args.job)
        if not job.outputs:
            raise UsageError(f"{job.id} is {job.status} and has no outputs")
        wanted = [(job.outputs[0], args.output)] if args.output else [(one, _name(job, one)) for one in job.outputs]
        files = [fetch(client, output, path, out, overwrite=args.overwrite) for output, path in wanted]
    lines = (file_line(path, output) for path, (output, _) in zip(files, wanted, strict=True))
    out.answer({"job": job.id, "files": [str(path) for path in files]}, *lines)
    return 0


def _name(job: Job, output: Output) -> Path:
    """`job_….video.mp4`: the service's name for the output is no file name."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", output.name)
    ending = _ENDINGS.get(output.content_type) or mimetypes.guess_extension(output.content_type) or ""
    return free_name(Path(f"{job.id}.{plain}{ending}"))


def _events(client: Client, args: argparse.Namespace, out: Out) -> int:
    """One JSON line an event; the last one is the terminal event."""
    status = ""
    try:
        for event in client.jobs.watch(args.job, after=args.after):
            out.json({"job": args.job, "seq": event.seq, "event": event.type, "at": event.at, "data": event.data})
            status = event.type
    except KeyboardInterrupt:
        raise Interrupted(f"{args.job} goes on") from None
    return of_job(status)


def _row(job: Job) -> tuple[object, ...]:
    done = f"{job.progress.fraction:.0%}" if job.progress and not job.ended else None
    about = job.error.code if job.error else waiting_text(job) or job.phase
    return job.id, job.status, job.kind, job.model, done, _moment(job.created_at), about


def _lines(job: Job) -> list[str]:
    """A job for people."""
    facts = {
        "job": job.id,
        "status": " ".join(part for part in (job.status, job.phase) if part),
        "kind": " ".join(part for part in (job.kind, job.model) if part),
        "done": f"{job.progress.fraction:.0%}" if job.progress and not job.ended else None,
        "waits for": waiting_text(job) or None,
        "attempt": job.attempt or None,
        "created": _moment(job.created_at),
        "not before": _moment(_time(job.document.get("run_at"))),
        "finished": _moment(job.finished_at),
        "reason": job.document.get("cancel_reason"),
        "error": f"{job.error.code}: {job.error.message}" if job.error else None,
        "field": job.error.field if job.error else None,
    }
    lines = [f"{name + ':':<11} {value}" for name, value in facts.items() if value is not None]
    for output in job.outputs:
        lines.append(f"{'output:':<11} {output.name}  {size_text(output.size)}, {picture_text(output)}")
        lines.append(f"{'':<11} {output.links.get('content', '')}")
    return lines


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _moment(at: datetime | None) -> str | None:
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else None
