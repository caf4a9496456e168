"""Where a model goes on this machine: which device, and which of its memory profiles fits there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Final

import torch

from framewright.catalogue.diffusion import Diffusion, Profile
from framewright.catalogue.row import ModelRow
from framewright.errors import WeightsRefused
from framewright.models.contents import check
from framewright.models.estimate import loaded
from framewright.models.home import Home
from framewright.models.memory import MB, profile_for
from framewright.params import parse_size
from workers.diffusion.loading import Loaded

HOST: Final = Profile(name="host", vram_mb=0)
"""On a machine without a GPU everything lies in its memory, which the system pages."""
_AGAIN: Final = "framewright models verify"


def placed(row: ModelRow, facts: Diffusion, home: Home, params: Mapping[str, Any], tighter: int = 0) -> Loaded:
    """The row's model, read from its folder and placed for a clip of the size and length that `params` say.

    `tighter` is how many ways to place it turned out to be too large for that.
    What `Home.ready` raises, and `WeightsRefused`, say which command mends it; `InsufficientVram` says what it takes.
    """
    folder = home.ready(row)
    mend = f"put right what lies in {folder}" if facts.folder is not None else f"run: {_AGAIN} {row.name}"
    try:
        check(folder)
    except WeightsRefused as error:
        raise WeightsRefused(f"the weights of {row.name} are refused: {error.detail}; {mend}") from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    profile = HOST
    if device == "cuda":
        vram_mb = torch.cuda.get_device_properties(0).total_memory // MB
        work = prod(parse_size(params["size"])) * int(params["frames"])
        profile = profile_for(row, vram_mb, loaded(facts, folder), work, tighter)
    return Loaded(
        facts,
        folder,
        base=folder / "base" if facts.base is not None and facts.folder is None else None,
        profile=profile,
        name=row.name,
        mend=mend,
        device=device,
        revision=home.look(row).revision or folder_revision(folder),
    )


def folder_revision(folder: Path) -> str:
    """For weights without a commit: what their files are, by name, size and time of change."""
    found = sorted((str(path.relative_to(folder)), path.stat()) for path in folder.rglob("*") if path.is_file())
    text = repr([(name, facts.st_size, facts.st_mtime_ns) for name, facts in found])
    return hashlib.sha256(text.encode()).hexdigest()
