"""Where a model goes on this machine: which device, and which of its memory profiles fits there."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import torch

from framewright.catalogue.diffusion import Diffusion, Profile
from framewright.catalogue.row import ModelRow
from framewright.errors import InsufficientVram
from framewright.models.contents import check
from framewright.models.home import Home
from workers.diffusion.loading import Loaded

HOST: Final = Profile(name="host", vram_mb=0)
"""On a machine without a GPU everything lies in its memory, which the system pages."""


_AGAIN: Final = "framewright models verify"


def profile_for(row: ModelRow, facts: Diffusion, vram_mb: int) -> Profile:
    """The first of the row's profiles that fits in that much GPU memory; `InsufficientVram` names the least."""
    for profile in facts.profiles:
        if profile.vram_mb <= vram_mb:
            return profile
    least = min(profile.vram_mb for profile in facts.profiles)
    raise InsufficientVram(
        f"{row.name} needs a GPU with at least {least / 1000:g} GB, and this one has {vram_mb / 1000:g} GB"
    )


def placed(row: ModelRow, facts: Diffusion, home: Home) -> Loaded:
    """The row's model, read from its folder; whatever `Home.ready` raises says which command mends it."""
    folder = home.ready(row)
    check(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    profile = HOST
    if device == "cuda":
        profile = profile_for(row, facts, torch.cuda.get_device_properties(0).total_memory // 1_000_000)
    return Loaded(
        facts,
        folder,
        base=folder / "base" if facts.base is not None and facts.folder is None else None,
        profile=profile,
        name=row.name,
        mend=f"put right what lies in {folder}" if facts.folder is not None else f"run: {_AGAIN} {row.name}",
        device=device,
        revision=home.look(row).revision or folder_revision(folder),
    )


def folder_revision(folder: Path) -> str:
    """For weights without a commit: what their files are, by name, size and time of change."""
    found = sorted((str(path.relative_to(folder)), path.stat()) for path in folder.rglob("*") if path.is_file())
    text = repr([(name, facts.st_size, facts.st_mtime_ns) for name, facts in found])
    return hashlib.sha256(text.encode()).hexdigest()
