"""Bringing inputs to the scratch disk and outputs to storage, verified both ways."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from framewright.errors import BadInput, Canceled, InvalidOutput, ObjectMissing
from framewright.jobs import Artifact, Claim, Phase, Progress
from framewright.storage import Storage
from workers import aside
from workers.track import Track

AT_ONCE: Final = 4
_TRIES: Final = 3
_BLOCK: Final = 1 << 20
_ENDINGS: Final = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp", "video/mp4": ".mp4"}

Paths = dict[str, str | list[str]]


def download(storage: Storage, claim: Claim, place: Path, track: Track, canceled: Callable[[], bool]) -> Paths:
    """Fetches every input of the claim into `place` and returns where each lies, under the names of the plan.

    An object that is gone, or that time after time is not what was uploaded, is `BadInput` naming the input;
    `StorageUnavailable` after the storage's own patience, `Canceled` soon after `canceled` says so, `OSError` for the
    disk.
    """
    wanted = dict(_by_key(claim.inputs, place))
    fetched: list[str] = []

    def fetch(key: str, stopped: aside.Stop) -> None:
        field, path, facts = wanted[key]
        _fetch(storage, key, path, facts, field=field, canceled=stopped)
        fetched.append(key)
        track.report(Progress(fraction=len(fetched) / len(wanted), phase=Phase.DOWNLOADING))

    track.report(Progress(phase=Phase.DOWNLOADING))
    aside.each([partial(fetch, key) for key in wanted], AT_ONCE, canceled)
    return {name: _paths(value, wanted) for name, value in claim.inputs.items()}


def upload(
    storage: Storage,
    claim: Claim,
    outputs: Sequence[Mapping[str, Any]],
    work: Path,
    *,
    track: Track,
    canceled: Callable[[], bool],
) -> list[Artifact]:
    """Puts each output under the attempt's own prefix; the artifacts are ready to be committed.

    The runner is not trusted with paths: an output outside `work`, or one that is no plain file, is `InvalidOutput`.
    """
    files = [(output, inside(work, output)) for output in outputs]
    sizes = [path.stat().st_size for _, path in files]
    total, before = max(1, sum(sizes)), 0
    artifacts = []
    track.report(Progress(phase=Phase.UPLOADING))
    for (output, path), size in zip(files, sizes, strict=True):
        digest = sha256(path, canceled)
        key = storage.output_key(claim.tenant_id, claim.job_id, claim.step_name, claim.fence, output["name"])

        def sent(done: int, start: int = before) -> None:
            if not canceled():
                track.report(Progress(fraction=(start + done) / total, phase=Phase.UPLOADING))

        storage.put_file(key, path, output["content_type"], sha256=digest, canceled=canceled, progress=sent)
        before += size
        artifacts.append(Artifact(output["name"], key, size, digest, output["content_type"], dict(output["meta"])))
    return artifacts


def sha256(path: Path, canceled: Callable[[], bool]) -> bytes:
    """The digest of a file; `Canceled` soon after `canceled` says so."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            if canceled():
                raise Canceled("the transfer was canceled")
    return digest.digest()


def _fetch(
    storage: Storage,
    key: str,
    path: Path,
    facts: Mapping[str, Any],
    *,
    field: str,
    canceled: Callable[[], bool],
) -> None:
    for _ in range(_TRIES):
        try:
            size = storage.get_file(key, path, canceled=canceled)
        except ObjectMissing:
            raise BadInput("the input is no longer stored", field=field) from None
        if size == facts.get("size", size) and sha256(path, canceled).hex() == facts.get("sha256"):
            return
    raise BadInput("what is stored is not what was uploaded", field=field)


def _by_key(inputs: Mapping[str, Any], place: Path) -> Iterator[tuple[str, tuple[str, Path, Mapping[str, Any]]]]:
    """Each object once, however often it is named: key -> (the field that names it, where to put it, its facts)."""
    seen = set()
    for name, value in inputs.items():
        many = isinstance(value, list)
        for index, facts in enumerate(value if many else [value]):
            if facts["key"] not in seen:
                seen.add(facts["key"])
                field = f"/input/{name}/{index}" if many else f"/input/{name}"
                stem = f"{name}-{index:05d}" if many else name
                yield facts["key"], (field, place / f"{stem}{_ending(str(facts.get('content_type', '')))}", facts)


def _paths(value: Any, wanted: Mapping[str, tuple[str, Path, Mapping[str, Any]]]) -> str | list[str]:
    if isinstance(value, list):
        return [str(wanted[facts["key"]][1]) for facts in value]
    return str(wanted[value["key"]][1])


def _ending(content_type: str) -> str:
    return _ENDINGS.get(content_type) or mimetypes.guess_extension(content_type) or ""


def inside(work: Path, output: Mapping[str, Any]) -> Path:
    """Where an output lies; `InvalidOutput` unless it is a plain file of the attempt's own."""
    path = Path(output["path"])
    if path.is_symlink() or not path.is_file() or not path.resolve().is_relative_to(work.resolve()):
        raise InvalidOutput(f"{output['name']}: the engine named a file that is not its own")
    return path
