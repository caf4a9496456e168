"""Where the weights of each model lie on this machine, what state they are in, and what would mend it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

import platformdirs

from framewright.catalogue.diffusion import Repo
from framewright.catalogue.row import ModelRow
from framewright.errors import LicenceNotAccepted, ModelNotReady, WeightsRefused
from framewright.models.contents import CODE, check, walk
from framewright.models.manifest import NAME, PARTS, Manifest, Part, read
from framewright.settings import ModelSettings

ACCEPTED = "FRAMEWRIGHT_ACCEPTED_LICENCES"
_SAFE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# A stray one of these could be loaded in the place of what was pulled.
_LOADED = frozenset({".safetensors", ".json"})


class State(StrEnum):
    """What is there of a model's weights."""

    ABSENT = "absent"
    PARTIAL = "partial"
    COMPLETE = "complete"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class OnDisk:
    """What `Home.look` found. `why` and `fix` are sentences, there whenever the state is not complete."""

    model: str
    folder: Path
    state: State
    size: int = 0
    why: str | None = None
    fix: str | None = None
    manifest: Manifest | None = None
    accepted: bool = True

    @property
    def revision(self) -> str | None:
        return self.manifest.sources["repo"].revision if self.manifest else None


class Home:
    """The folder that holds one folder a model. `accepted` names models whose licence the operator accepts."""

    def __init__(self, root: Path, *, accepted: frozenset[str] = frozenset()) -> None:
        self.root = root.expanduser().absolute()
        self.accepted = accepted

    @classmethod
    def of(cls, settings: ModelSettings) -> Home:
        return cls(settings.models_dir or default_models_dir(), accepted=frozenset(settings.accepted_licences))

    def folder(self, row: ModelRow) -> Path:
        """The folder of a row's weights, there or not; a base and an upscaler lie in `base` and `upscale` below."""
        if row.diffusion is not None and row.diffusion.folder is not None:
            return row.diffusion.folder.expanduser().absolute()
        if not _SAFE.fullmatch(row.name):
            raise WeightsRefused(f"{row.name[:80]!r} cannot be the name of a folder")
        return self.root / row.name

    def look(self, row: ModelRow) -> OnDisk:
        """The state of a row's weights by names and sizes. Content is for `verify`; a pull checked it before."""
        folder = self.folder(row)
        if row.diffusion is not None and row.diffusion.folder is not None:
            return _own(row, folder, accepted=self.consented(row, None))
        pull = f"framewright models pull {row.name}"
        if not folder.is_dir() or not any(os.scandir(folder)):
            why = f"the weights of {row.name} are not on this machine"
            return OnDisk(row.name, folder, State.ABSENT, 0, why, pull, accepted=self.consented(row, None))
        try:
            manifest = read(folder)
        except WeightsRefused as error:
            return OnDisk(row.name, folder, State.DAMAGED, used(folder), _within(folder, row, error), pull)
        try:
            found = {path: facts.st_size for path, facts in walk(folder)}
        except WeightsRefused as error:
            again = f"framewright models rm {row.name} && {pull}"
            return OnDisk(row.name, folder, State.DAMAGED, used(folder), _within(folder, row, error), again)
        size = used(folder)
        if manifest is None:
            why = f"the folder of {row.name} has no {NAME}, so nobody knows what it holds"
            return OnDisk(row.name, folder, State.PARTIAL, size, why, pull, accepted=self.consented(row, None))
        accepted = self.consented(row, manifest)
        state, wrong, mend = _judge(row, folder, manifest, found)
        return OnDisk(row.name, folder, state, size, wrong, mend, manifest, accepted)

    def ready(self, row: ModelRow) -> Path:
        """The folder to load a row from; `ModelNotReady` or `LicenceNotAccepted` with the command that helps.

        Tenants read these sentences: paths of this machine are for commands that run on it.
        """
        here = self.look(row)
        own = row.diffusion is not None and row.diffusion.folder is not None
        if here.state is not State.COMPLETE:
            fix = f"framewright models verify {row.name}" if str(here.folder) in str(here.fix) else here.fix
            raise ModelNotReady(f"{row.name} is not ready: {here.why}; {fix if own else f'run: {fix}'}")
        if not here.accepted:
            pull = f"run: framewright models pull {row.name} --accept-licence"
            raise LicenceNotAccepted(
                f"the licence of {row.name} ({row.licence.name}) was not accepted here; read it and "
                f"{f'name the model in {ACCEPTED}' if own else pull}"
            )
        return here.folder

    def consented(self, row: ModelRow, manifest: Manifest | None) -> bool:
        """Whether the row's licence asks for nothing, or an operator has accepted it, here or by the setting."""
        given = manifest.consent if manifest else None
        return not row.licence.accept or row.name in self.accepted or (given and given.licence) == row.licence.name

    @contextlib.contextmanager
    def hold(self, row: ModelRow) -> Iterator[None]:
        """Only one process at a time changes a model's folder; `ModelNotReady` where another one does just now."""
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / f".{self.folder(row).name}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ModelNotReady(f"another process is at work on {row.name} just now; wait for its end") from None
            yield
        finally:
            os.close(descriptor)


def default_models_dir() -> Path:
    """Beside the data directory of `framewright up`, which holds only what its servers put there."""
    return Path(platformdirs.user_data_dir("framewright-models", appauthor=False))


def used(folder: Path) -> int:
    """Bytes below a folder, parts of unfinished files too; links are not followed."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(root, name).lstat().st_size
    return total


def _judge(
    row: ModelRow, folder: Path, manifest: Manifest, found: dict[str, int]
) -> tuple[State, str | None, str | None]:
    pull = f"framewright models pull {row.name}"
    known = {file.path: file.size for file in manifest.files}
    for path in found:
        suffix = PurePosixPath(path).suffix.lower()
        if path not in known and path != NAME and (suffix in CODE or suffix in _LOADED):
            why = f"{path} of {row.name} is not part of what was pulled and might be loaded"
            return State.DAMAGED, why, f"rm '{folder / path}'"
    if not matches(row, manifest):
        why = f"another revision or repository of {row.name} is here than this version runs"
        return State.PARTIAL, why, pull
    if manifest.damaged:
        return State.DAMAGED, f"{manifest.damaged[0]} of {row.name} does not have the content that was pulled", pull
    if not manifest.complete:
        whole = sum(size for path, size in known.items() if found.get(path) == size)
        parts = used(folder / PARTS) if (folder / PARTS).is_dir() else 0
        why = f"the weights of {row.name} are half pulled ({whole + parts} of {manifest.size} bytes)"
        return State.PARTIAL, why, pull
    wrong = next((path for path, size in known.items() if found.get(path) != size), None)
    if wrong is not None:
        how = "is missing" if wrong not in found else f"has {found[wrong]} bytes instead of {known[wrong]}"
        return State.DAMAGED, f"{wrong} of {row.name} {how}", pull
    return State.COMPLETE, None, None


def _within(folder: Path, row: ModelRow, error: WeightsRefused) -> str:
    """What is wrong, with paths as they are within the model's folder."""
    return error.detail.replace(f"{folder}{os.sep}", "").replace(str(folder), f"the folder of {row.name}")


def matches(row: ModelRow, manifest: Manifest) -> bool:
    """Whether the manifest is of the repositories, and of the commits if any, that the row asks for."""
    pulled = {part: (source.repo, source.revision) for part, source in manifest.sources.items()}
    asked = repositories(row)
    return asked.keys() == pulled.keys() and all(
        repo.id == pulled[part][0] and repo.revision in {None, pulled[part][1]} for part, repo in asked.items()
    )


def repositories(row: ModelRow) -> dict[Part, Repo]:
    """The repositories that a row's weights come from."""
    if row.diffusion is None:
        return {}
    found: dict[Part, Repo] = {"repo": row.diffusion.repo}
    if row.diffusion.base is not None:
        found["base"] = row.diffusion.base
    if row.diffusion.upscale is not None:
        found["upscale"] = row.diffusion.upscale.repo
    return found


def _own(row: ModelRow, folder: Path, *, accepted: bool) -> OnDisk:
    """A folder of the operator's own has no manifest: what it holds is checked each time, and so is the setting."""
    if not folder.is_dir():
        fix = "correct `path` in the catalogue file"
        return OnDisk(
            row.name, folder, State.ABSENT, 0, f"the folder of {row.name} is not there", fix, accepted=accepted
        )
    try:
        check(folder)
    except WeightsRefused as error:
        fix = "put right what it names"
        return OnDisk(
            row.name, folder, State.DAMAGED, used(folder), _within(folder, row, error), fix, accepted=accepted
        )
    return OnDisk(row.name, folder, State.COMPLETE, used(folder), accepted=accepted)
