"""`framewright.json` in a model's folder: what was pulled from where, at which commit, and under which consent."""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from framewright.errors import WeightsRefused
from framewright.models.contents import distinct, safe_path
from framewright.models.headers import opened

NAME = "framewright.json"
PARTS = ".parts"
Part = Literal["repo", "base", "upscale"]
"""Which of a row's repositories. That of `repo` lies in the model's folder itself, the others in a folder so named."""
_MOST = 10_000_000
_SHA256 = r"^[0-9a-f]{64}$"
_SHA1 = r"^[0-9a-f]{40}$"


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Source(_Fact):
    """A repository at one commit. The commit stays, whatever its branches do later."""

    repo: str
    revision: str = Field(pattern=_SHA1)


class File(_Fact):
    """One file: `path` in the model's folder, `name` in its repository, and by which hash the hub knows it.

    `sha256` of a small file is known once it is here; until then `git`, the id of its blob, vouches for it.
    """

    path: Annotated[str, AfterValidator(lambda path: str(safe_path(path)))]
    name: str
    of: Part
    size: int = Field(ge=0)
    sha256: str | None = Field(None, pattern=_SHA256)
    git: str | None = Field(None, pattern=_SHA1)


class Consent(_Fact):
    """Who accepted a licence, when, and by which act."""

    licence: str
    by: str
    at: str
    how: str


class Manifest(_Fact):
    """All that is known about one model's folder. `damaged` are files whose content was found wrong."""

    layout: Literal[1] = 1
    model: str
    hub: str
    sources: dict[Part, Source]
    files: tuple[File, ...]
    complete: bool = False
    damaged: tuple[str, ...] = ()
    consent: Consent | None = None
    verified_at: str | None = None

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def write(self, folder: Path) -> None:
        """Replace the manifest at once and for good: a killed process or a power cut leaves the old or the new one."""
        fresh = folder / f".{NAME}.{secrets.token_hex(4)}"
        with fresh.open("w") as file:
            file.write(self.model_dump_json(indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(folder / NAME)
        sync_folder(folder)


def read(folder: Path) -> Manifest | None:
    """The manifest, or None where there is none; `WeightsRefused` where it is no manifest."""
    path = folder / NAME
    if not path.is_symlink() and not path.exists():
        return None
    with opened(path) as file:
        raw = file.read(_MOST)
    try:
        manifest = Manifest.model_validate_json(raw)
        distinct([NAME, *(file.path for file in manifest.files)])
    except (ValidationError, WeightsRefused):
        raise WeightsRefused(f"{path} is not as Framewright writes it") from None
    return manifest


def sync_folder(folder: Path) -> None:
    """See that new names in a folder outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
