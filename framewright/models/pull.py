"""Bring a model's weights here: pinned, resumable, within the room there is, and complete only when all is checked."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from framewright.catalogue.diffusion import Repo
from framewright.catalogue.row import ModelRow
from framewright.errors import DiskFull, HubRefused, LicenceNotAccepted, ModelNotReady, WeightsRefused
from framewright.models.contents import PIPELINE, TAKEN, check, distinct, safe_path, walk
from framewright.models.fetch import Digest, held, part_of, place
from framewright.models.headers import opened
from framewright.models.home import Home, State, matches, repositories
from framewright.models.hub import Hub
from framewright.models.manifest import NAME, PARTS, Consent, File, Manifest, Part, Source, now, read
from framewright.models.together import Report, fetch_all, pausing

MARGIN = 200_000_000


def pull(
    row: ModelRow,
    home: Home,
    *,
    hub_url: str,
    token: str | None = None,
    agree: Callable[[ModelRow], Consent | None],
    report: Report,
    wait: Callable[[float], None] | None = None,
) -> Manifest:
    """The manifest of the complete weights. Killed at any point, the next call goes on from there.

    `agree` is asked for consent to a licence that wants one and has none here; it may answer None. `wait` passes the
    pauses before further tries. Raises `LicenceNotAccepted`, `DiskFull`, `HubRefused`, `HubUnavailable`,
    `WeightsRefused`, or `ModelNotReady` while another process works on the same model.
    """
    if row.diffusion is None or row.diffusion.folder is not None:
        raise WeightsRefused(f"{row.name} has no weights to pull")
    folder = home.folder(row)
    stop = threading.Event()
    with home.hold(row), Hub(hub_url, token=token, wait=wait or pausing(stop)) as hub:
        before = _known(folder)
        consent = _consent(row, home, before, agree)
        here = home.look(row)
        if before and here.state is State.COMPLETE:
            return (
                before if before.consent == consent else _kept(folder, before.model_copy(update={"consent": consent}))
            )
        manifest = _begun(row, hub, before, consent)
        have = _have(folder, before, manifest)
        _fits(folder, manifest, have)
        _prepared(folder, before, manifest, have)
        missing = [file for file in manifest.files if file.path not in have]
        fetch_all(hub, manifest, folder, missing, report=report, stop=stop)
        done = _finished(folder, manifest)
        if (here := home.look(row)).state is not State.COMPLETE:
            raise ModelNotReady(f"{here.why}; run: {here.fix}")
        return done


def _known(folder: Path) -> Manifest | None:
    try:
        return read(folder)
    except WeightsRefused:
        return None


def _consent(
    row: ModelRow, home: Home, before: Manifest | None, agree: Callable[[ModelRow], Consent | None]
) -> Consent | None:
    given = before.consent if before else None
    if not row.licence.accept or (given and given.licence == row.licence.name):
        return given
    if row.name in home.accepted:
        return Consent(licence=row.licence.name, by="operator", at=now(), how="FRAMEWRIGHT_ACCEPTED_LICENCES")
    if (fresh := agree(row)) is None:
        raise LicenceNotAccepted(
            f"the licence of {row.name} ({row.licence.name}) must be accepted first: add --accept-licence, or put "
            f"{row.name} into FRAMEWRIGHT_ACCEPTED_LICENCES"
        )
    return fresh


def _begun(row: ModelRow, hub: Hub, before: Manifest | None, consent: Consent | None) -> Manifest:
    """What is to be fetched: as an earlier pull began it, or as the hub lists it now."""
    if before and before.hub == hub.url and matches(row, before):
        return before.model_copy(update={"complete": False, "consent": consent})
    sources: dict[Part, Source] = {}
    files: list[File] = []
    for part, repo in repositories(row).items():
        pinned = before.sources.get(part) if before else None
        revision = repo.revision or (pinned.revision if pinned and pinned.repo == repo.id else None)
        sources[part] = Source(repo=repo.id, revision=hub.commit(repo.id, revision))
        files += _listed(hub, repo, part, sources[part])
    if not any(PurePosixPath(file.path).name == PIPELINE for file in files):
        where = " and ".join(source.repo for source in sources.values())
        raise HubRefused(f"{where} has no {PIPELINE}, by which diffusers loads a pipeline")
    distinct([NAME, *(file.path for file in files)])
    return Manifest(model=row.name, hub=hub.url, sources=sources, files=tuple(files), consent=consent)


def _listed(hub: Hub, repo: Repo, part: Part, source: Source) -> Iterator[File]:
    count = 0
    for offered in hub.files(repo.id, source.revision):
        # Hidden files are left alone; a name that would lead out of the folder is not, for it means harm.
        hidden = any(name.startswith(".") and name.strip(".") for name in offered.path.split("/"))
        asked = _any(offered.path, repo.files) and not _any(offered.path, repo.without)
        if hidden or not asked or PurePosixPath(offered.path).suffix.lower() not in TAKEN:
            continue
        try:
            path = str(safe_path(offered.path if part == "repo" else f"{part}/{offered.path}"))
        except WeightsRefused as error:
            raise HubRefused(f"{repo.id} is refused: {error.detail}") from None
        count += offered.path.endswith(".safetensors")
        yield File(path=path, name=offered.path, of=part, size=offered.size, sha256=offered.sha256, git=offered.git)
    if not count:
        raise HubRefused(f"{repo.id} holds no safetensors at {source.revision[:12]}; weights in pickles are not taken")


def _any(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _have(folder: Path, before: Manifest | None, manifest: Manifest) -> set[str]:
    """The files that an earlier pull has brought to their places: they were checked when they got there."""
    if before is None:
        return set()
    there = {path: facts.st_size for path, facts in walk(folder)}
    old = {file.path: file for file in before.files if file.path not in before.damaged}
    return {
        file.path
        for file in manifest.files
        if file.path in old and _same(file, old[file.path]) and there.get(file.path) == file.size
    }


def _same(one: File, other: File) -> bool:
    return (one.sha256 is not None and one.sha256 == other.sha256) or (one.git is not None and one.git == other.git)


def _fits(folder: Path, manifest: Manifest, have: set[str]) -> None:
    missing = [file for file in manifest.files if file.path not in have]
    begun = sum(held(folder, file) for file in missing)
    needs = sum(file.size for file in missing) - begun
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if needs and needs + MARGIN > free:
        raise DiskFull(
            f"{manifest.model} needs {(needs + MARGIN) / 1e9:.1f} GB more, and {there} has {free / 1e9:.1f} GB free; "
            "free some, or set FRAMEWRIGHT_MODELS_DIR to a larger disk"
        )


def _prepared(folder: Path, before: Manifest | None, manifest: Manifest, have: set[str]) -> None:
    """Write down what is being pulled. A file of unknown origin becomes a part, which is hashed like any other."""
    (folder / PARTS).mkdir(parents=True, exist_ok=True)
    spoilt = before.damaged if before else ()
    wanted = {file.path for file in manifest.files}
    for file in before.files if before else ():
        if file.path not in wanted:
            place(folder, file.path).unlink(missing_ok=True)
    for file in manifest.files:
        at = place(folder, file.path)
        if file.path not in have and os.path.lexists(at):
            at.unlink() if file.path in spoilt or at.is_symlink() else at.replace(part_of(folder, file))
    _kept(folder, manifest.model_copy(update={"complete": False, "damaged": ()}))


def _kept(folder: Path, manifest: Manifest) -> Manifest:
    manifest.write(folder)
    return manifest


def _finished(folder: Path, manifest: Manifest) -> Manifest:
    """Look at all of it once more as a loader would meet it, then call it complete."""
    check(folder)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    files = tuple(
        file if file.sha256 else file.model_copy(update={"sha256": _sha256(folder, file)}) for file in manifest.files
    )
    done = {"files": files, "complete": True, "damaged": (), "verified_at": now()}
    return _kept(folder, manifest.model_copy(update=done))


def _sha256(folder: Path, file: File) -> str:
    digest = Digest(file)
    with opened(folder / file.path) as there:
        while chunk := there.read(1 << 20):
            digest.update(chunk)
    return digest.sha256
