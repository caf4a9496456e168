"""`animate` and `encode`: upload, submit, follow, fetch."""

from __future__ import annotations

import argparse
import re
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from framewright.cli.exits import UsageError, of_job
from framewright.cli.following import follow, waiting_text
from framewright.cli.output import Out, picture_text, size_text
from framewright.cli.progress import bar, transferred
from framewright.cli.target import connect
from framewright.client import Asset, Client, Job, Output
from framewright.client.transfer import free_name

ANIMATE_FLAGS = ("move", "seconds", "fps", "size", "easing", "strength", "seed", "fit", "codec", "quality")
ENCODE_FLAGS = ("fps", "size", "fit", "background", "on_error", "codec", "quality")
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
UPLOADS_AT_ONCE = 4


def animate(args: argparse.Namespace, out: Out) -> int:
    with connect(args) as client:
        image = args.image if args.image.startswith("asset_") else upload(client, existing(Path(args.image)), out)
        request = {
            "kind": "animate",
            "model": args.model or "camera-move",
            "input": {"image": image},
            "params": params(args, ANIMATE_FLAGS),
        }
        named = "clip" if args.image.startswith("asset_") else Path(args.image).stem
        return _make(client, args, out, request, Path(f"{named}.{request['model']}.mp4"))


def encode(args: argparse.Namespace, out: Out) -> int:
    sources = [source for given in args.images for source in _pictures(given)]
    with connect(args) as client:
        request = {
            "kind": "encode",
            "model": args.model or "hevc",
            "input": {"images": _upload_all(client, sources, out)},
            "params": params(args, ENCODE_FLAGS),
        }
        first = args.images[0]
        named = "clip" if first.startswith("asset_") else Path(first).resolve().stem
        return _make(client, args, out, request, Path(f"{named}.mp4"))


def params(args: argparse.Namespace, flags: tuple[str, ...]) -> dict[str, Any]:
    """What was given on the command line; the service knows the defaults."""
    given = {flag: getattr(args, flag) for flag in flags if getattr(args, flag) is not None}
    return given | dict(getattr(args, "param", []))


def existing(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    return path


def upload(client: Client, path: Path, out: Out) -> str:
    """Upload one file under a bar; returns its asset id."""
    with bar(out, f"uploading {path.name}") as shown:
        return client.assets.put(path, progress=transferred(shown)).id


def fetch(client: Client, output: Output, destination: Path, out: Out, *, overwrite: bool = False) -> Path:
    """Download one output under a bar."""
    with bar(out, f"fetching {destination.name}") as shown:
        return client.jobs.download(output, destination, progress=transferred(shown), overwrite=overwrite)


def job_line(job: Job) -> str:
    """One line on a job that has ended or was just submitted."""
    text = f"{job.id} {job.status}"
    if job.error:
        text += f": {job.error.code}: {job.error.message}"
    elif waiting := waiting_text(job):
        text += f": {waiting}"
    return text


def file_line(path: Path, output: Output | Asset) -> str:
    facts = picture_text(output)
    return f"{path}  {size_text(output.size)}" + (f", {facts}" if facts else "")


def _make(client: Client, args: argparse.Namespace, out: Out, request: dict[str, Any], default: Path) -> int:
    wished: Path = args.output or free_name(default)
    if args.output and wished.exists() and not args.overwrite:
        raise UsageError(f"{wished} exists; add --overwrite to replace it")
    if not wished.parent.is_dir():
        raise UsageError(f"{wished.parent}: no such folder")
    optional = {"priority": args.priority, "run_at": args.run_at, "metadata": dict(args.meta) or None}
    request |= {name: value for name, value in optional.items() if value is not None}
    job = client.jobs.create(request, idempotency_key=args.idempotency_key)
    for adjusted in job.adjusted:
        out.note(f"{adjusted.field}: {adjusted.used} instead of {adjusted.asked}: {adjusted.why}")
    if args.no_wait:
        out.answer(job.document, job_line(job))
        return 0
    out.note(job.id)
    job = follow(client, job, out)
    files = []
    if job.status == "succeeded" and job.outputs:
        files.append(fetch(client, job.outputs[0], wished, out, overwrite=args.overwrite))
    lines = [file_line(path, job.outputs[0]) for path in files] or [job_line(job)]
    out.answer({"job": job.document, "files": [str(path) for path in files]}, *lines)
    return of_job(job.status)


def _pictures(given: str) -> list[str | Path]:
    """What one argument stands for; a folder's pictures come in the order people count."""
    if given.startswith("asset_"):
        return [given]
    folder = Path(given)
    if not folder.is_dir():
        return [existing(folder)]
    found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES and not path.name.startswith(".")]
    if not found:
        raise UsageError(f"{folder}: no PNG, JPEG or WebP in there")
    return [*sorted(found, key=_counted)]


def _counted(path: Path) -> list[tuple[int, int, str]]:
    """Sorts 2.png before 10.png."""
    parts = (part for part in re.split(r"(\d+)", path.name) if part)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def _upload_all(client: Client, sources: list[str | Path], out: Out) -> list[str]:
    """Asset ids in the order of `sources`; files go up a few at a time."""
    ids = [source if isinstance(source, str) else "" for source in sources]
    files = [(place, source) for place, source in enumerate(sources) if isinstance(source, Path)]
    if not files:
        return ids
    with bar(out, "uploading") as shown, ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
        pending = {pool.submit(client.assets.put, source): place for place, source in files}
        try:
            for done, future in enumerate(as_completed(pending), 1):
                ids[pending[future]] = future.result().id
                shown.update(done / len(files), f"{done} of {len(files)} pictures")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return ids
