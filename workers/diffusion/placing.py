"""Where a model goes on this machine: which device, and which of its memory profiles fits there."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import torch

from framewright.catalogue.diffusion import Diffusion, Profile
from framewright.catalogue.row import ModelRow
from framewright.errors import WeightsRefused
from framewright.models.contents import check
from framewright.models.estimate import loaded
from framewright.models.home import Home
from framewright.models.memory import MB, profile_for
from workers.diffusion.loading import Loaded

HOST: Final = Profile(name="host", vram_mb=0)
"""On a machine without a GPU everything lies in its memory, which the system pages."""
_AGAIN: Final = "framewright models verify"


def placed(row: ModelRow, facts: Diffusion, home: Home, profile: str | None) -> Loaded:
    """The row's model, read from its folder and placed as the profile of that name says; the first that fits for None.

    What `Home.ready` raises, and `WeightsRefused`, say which command mends it; `InsufficientVram` says what it takes.
    """
    folder = home.ready(row)
    mend = f"put right what lies in {folder}" if facts.folder is not None else f"run: {_AGAIN} {row.name}"
    try:
        check(folder)
    except WeightsRefused as error:
        raise WeightsRefused(f"the weights of {row.name} are refused: {error.detail}; {mend}") from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Loaded(
        facts,
        folder,
        base=folder / "base" if facts.base is not None and facts.folder is None else None,
        profile=_profile(row, facts, folder, profile) if device == "cuda" else HOST,
        name=row.name,
        mend=mend,
        device=device,
        revision=home.look(row).revision or folder_revision(folder),
    )


def _profile(row: ModelRow, facts: Diffusion, folder: Path, name: str | None) -> Profile:
    vram_mb = torch.cuda.get_device_properties(0).total_memory // MB
    fits = profile_for(row, vram_mb, loaded(facts, folder))
    return next((one for one in facts.profiles if one.name == name), fits)


def folder_revision(folder: Path) -> str:
    """For weights without a commit: what their files are, by name, size and time of change."""
    found = sorted((str(path.relative_to(folder)), path.stat()) for path in folder.rglob("*") if path.is_file())
    text = repr([(name, facts.st_size, facts.st_mtime_ns) for name, facts in found])
    return hashlib.sha256(text.encode()).hexdigest()
