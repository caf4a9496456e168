"""`animate` and `encode`: upload, submit, follow, fetch."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from framewright.cli.exits import UsageError, about, of_job
from framewright.cli.following import follow, waiting_text
from framewright.cli.output import Out, picture_text, size_text, visible
from framewright.cli.progress import bar, transferred
from framewright.cli.target import connect
from framewright.client import ApiError, Asset, Client, Job, Output
from framewright.client.transfer import free_name
from framewright.errors import UnsupportedMedia

ANIMATE_FLAGS = ("move", "seconds", "fps", "size", "easing", "strength", "seed", "fit", "codec", "quality")
ENCODE_FLAGS = ("fps", "size", "fit", "background", "on_error", "codec", "quality")
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
UPLOADS_AT_ONCE = 4


def animate(args: argparse.Namespace, out: Out) -> int:
    given = args.image.startswith("asset_")
    model = args.model or "camera-move"
    picture = None if given else existing(Path(args.image))
    wished = _wished(args, Path(f"{picture.stem if picture else 'clip'}.{model}.mp4"))
    with connect(args) as client:
        image = upload(client, picture, out) if picture else args.image
        request = {
            "kind": "animate",
            "model": model,
            "input": {"image": image},
            "params": params(args, ANIMATE_FLAGS),
        }
        return _make(client, args, out, request, wished)


def encode(args: argparse.Namespace, out: Out) -> int:
    sources = [source for given in args.images for source in _pictures(given)]
    first = args.images[0]
    wished = _wished(args, Path(f"{'clip' if first.startswith('asset_') else Path(first).resolve().stem}.mp4"))
    asked = params(args, ENCODE_FLAGS)
    with connect(args) as client:
        uploaded = _upload_all(client, sources, out, skip=asked.get("on_error") == "skip")
        request = {
            "kind": "encode",
            "model": args.model or "hevc",
            "input": {"images": list(uploaded.values())},
            "params": asked,
        }
        names = [source if isinstance(source, str) else source.name for source in (sources[i] for i in uploaded)]
        try:
            return _make(client, args, out, request, wished, names=names)
        except ApiError as error:
            if not out.as_json:
                error.detail = _named(error.detail, names)
                error.fields = tuple(replace(one, pointer=_named(one.pointer, names)) for one in error.fields)
            raise


def params(args: argparse.Namespace, flags: tuple[str, ...]) -> dict[str, Any]:
    """What was given on the command line; the service knows the defaults."""
    given = {flag: getattr(args, flag) for flag in flags if getattr(args, flag) is not None}
    return given | dict(getattr(args, "param", []))


def existing(path: Path) -> Path:
    if path.is_dir():
        raise UsageError(f"{path}: a folder, not a file")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: no regular file (a pipe or a device); write it to a file first")
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    return path


def upload(client: Client, path: Path, out: Out) -> str:
    """Upload one file under a bar; returns its asset id."""
    with about(path.name), bar(out, f"uploading {path.name}") as shown:
        return client.assets.put(path, progress=transferred(shown)).id


def fetch(client: Client, output: Output, destination: Path, out: Out, *, overwrite: bool = False) -> Path:
    """Download one output under a bar."""
    with bar(out, f"fetching {destination.name}") as shown:
        return client.jobs.download(output, destination, progress=transferred(shown), overwrite=overwrite)


def job_line(job: Job, names: Sequence[str] = ()) -> str:
    """One line on a job that has ended or was just submitted; `names` are what its pictures are called here."""
    text = f"{job.id} {job.status}"
    if job.error:
        field = _named(job.error.field or "", names)
        blamed = f"{field}: " if field in names else ""
        text += f": {job.error.code}: {blamed}{_named(job.error.message, names)}"
    elif waiting := waiting_text(job):
        text += f": {waiting}"
    return text


def file_line(path: Path, output: Output | Asset) -> str:
    facts = picture_text(output)
    return f"{path}  {size_text(output.size)}" + (f", {facts}" if facts else "")


def _wished(args: argparse.Namespace, default: Path) -> Path:
    """Where the video goes; what is wrong with that is said before anything goes up."""
    if args.output is None:
        return free_name(default)
    wished: Path = args.output
    if args.no_wait:
        raise UsageError("--no-wait leaves before there is a video; fetch it later with `jobs download JOB -o FILE`")
    if wished.is_dir():
        raise UsageError(f"{wished}: a folder; name the file")
    if wished.exists() and not args.overwrite:
        raise UsageError(f"{wished} exists; add --overwrite to replace it")
    if not wished.parent.is_dir():
        raise UsageError(f"{wished.parent}: no such folder")
    return wished


def _named(text: str, names: Sequence[str]) -> str:
    """`/input/images/1` as what the second picture is called here."""

    def name(found: re.Match[str]) -> str:
        place = int(found[1])
        return names[place] if place < len(names) else found[0]

    return re.sub(r"/input/images/(\d+)", name, text)


def _make(
    client: Client,
    args: argparse.Namespace,
    out: Out,
    request: dict[str, Any],
    wished: Path,
    *,
    names: Sequence[str] = (),
) -> int:
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
    lines = [file_line(path, job.outputs[0]) for path in files] or [job_line(job, names)]
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


def _upload_all(client: Client, sources: list[str | Path], out: Out, *, skip: bool) -> dict[int, str]:
    """Asset ids by their place in `sources`, in that order; files go up a few at a time.

    With `skip` a file that is no picture is left out with a warning, unless no picture is left.
    """
    ids: dict[int, str | None] = {
        place: source if isinstance(source, str) else None for place, source in enumerate(sources)
    }
    unreadable: list[ApiError] = []
    files = {place: source for place, source in enumerate(sources) if isinstance(source, Path)}
    if not files:
        return {place: asset for place, asset in ids.items() if asset}
    with bar(out, "uploading") as shown, ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
        pending = {pool.submit(client.assets.put, source): place for place, source in files.items()}
        try:
            for done, future in enumerate(as_completed(pending), 1):
                place = pending[future]
                try:
                    with about(files[place].name):
                        ids[place] = future.result().id
                except ApiError as error:
                    if not skip or error.code != UnsupportedMedia.code:
                        raise
                    unreadable.append(error)
                shown.update(done / len(files), f"{done} of {len(files)} pictures")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for refused in unreadable:
        out.asides.print(visible(f"warning: left out {refused.detail}"))
    found = {place: asset for place, asset in ids.items() if asset}
    if unreadable and not found:
        raise unreadable[0]
    return found
