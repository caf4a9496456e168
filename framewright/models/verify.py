"""Whether the weights on disk still are what was pulled, hash by hash; and taking them away."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from framewright.catalogue.row import ModelRow
from framewright.errors import ModelNotReady, WeightsRefused
from framewright.models.contents import check
from framewright.models.fetch import Digest
from framewright.models.headers import opened
from framewright.models.home import Home, State, used
from framewright.models.manifest import File, Manifest, now, read
from framewright.models.together import Progress, Report


@dataclass(frozen=True, slots=True)
class Verified:
    """What a check found: how much was read, and which files do not have the content that was pulled."""

    model: str
    size: int
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Use:
    """A folder in the models directory and its bytes; `known` is False where no row has that name."""

    name: str
    size: int
    known: bool


def verify(row: ModelRow, home: Home, report: Report) -> Verified:
    """Read every byte again. What is wrong is written down, so that no worker loads it and a pull fetches it anew.

    `ModelNotReady` where there is nothing whole to check; `WeightsRefused` where something lies there that must not.
    """
    folder = home.folder(row)
    if row.diffusion is not None and row.diffusion.folder is not None:
        check(folder)
        return Verified(row.name, used(folder), ())
    if not folder.is_dir():
        here = home.look(row)
        raise ModelNotReady(f"{here.why}; run: {here.fix}")
    with home.hold(row):
        manifest = read(folder)
        if manifest is None or not manifest.complete:
            here = home.look(row)
            raise ModelNotReady(f"{here.why}; run: {here.fix}")
        wrong = tuple(_wrong(manifest, folder, report))
        fresh = {"damaged": wrong, "verified_at": None if wrong else now()}
        manifest.model_copy(update=fresh).write(folder)
        if not wrong:
            check(folder)
            if (here := home.look(row)).state is not State.COMPLETE:
                raise WeightsRefused(f"{here.why}; run: {here.fix}")
    return Verified(row.name, manifest.size, wrong)


def remove(row: ModelRow, home: Home) -> int:
    """Take a row's weights away, finished or not; the bytes that were freed. A folder of the operator's own stays.

    Of a link only the link goes. A worker that has the files open keeps what it has.
    """
    folder = home.folder(row)
    if row.diffusion is not None and row.diffusion.folder is not None:
        raise WeightsRefused(f"{folder} is a folder of your own that the catalogue names; remove it yourself")
    with home.hold(row):
        if folder.is_symlink():
            folder.unlink()
            return 0
        if not folder.exists():
            raise ModelNotReady(f"the weights of {row.name} are not on this machine")
        # First out of sight, at once: nobody ever finds a folder that is half gone.
        gone = folder.with_name(f".{folder.name}.gone-{secrets.token_hex(4)}")
        folder.rename(gone)
        freed = used(gone)
        shutil.rmtree(gone)
        return freed


def usage(home: Home, rows: tuple[ModelRow, ...]) -> list[Use]:
    """What each folder in the models directory takes, those of no row too: the remains of other versions."""
    names = {home.folder(row).name for row in rows if row.diffusion is not None and row.diffusion.folder is None}
    try:
        found = sorted(os.scandir(home.root), key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    return [Use(entry.name, used(Path(entry.path)), entry.name in names) for entry in found if entry.is_dir()]


def _wrong(manifest: Manifest, folder: Path, report: Report) -> Iterator[str]:
    done = 0
    for file in manifest.files:
        for count in _hashed(folder, file):
            if count is None:
                yield file.path
                continue
            done += count
            report(Progress(manifest.model, done, manifest.size))
        report(Progress(manifest.model, done, manifest.size, file.path))


def _hashed(folder: Path, file: File) -> Iterator[int | None]:
    """The bytes of a file as they are read; None at the end when it is not what was pulled."""
    digest = Digest(file)
    try:
        with opened(folder / file.path) as there:
            while chunk := there.read(1 << 20):
                digest.update(chunk)
                yield len(chunk)
    except WeightsRefused:
        yield None
        return
    if not digest.right:
        yield None
