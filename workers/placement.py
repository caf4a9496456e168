"""Which of a model's memory profiles a step runs with: the supervisor says so, and a runner holds a model in one."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from framewright import catalogue
from framewright.jobs import Claim
from framewright.models.estimate import loaded
from framewright.models.home import Home, State
from framewright.models.memory import profile_for
from framewright.params import parse_size


class TooTight(NamedTuple):
    """The step that last ran out of GPU memory here, and the profile that did not do."""

    step_id: int
    profile: str


def profile(claim: Claim, home: Home, vram_mb: int, last: TooTight | None = None) -> str | None:
    """The name of the profile for the clip that is asked for; None without a GPU, where there is only one way.

    A step that ran out of memory gets the next one. `InsufficientVram` when the GPU has room for none.
    """
    row = catalogue.named(claim.model) if claim.model else None
    if not vram_mb or row is None or row.diffusion is None:
        return None
    parts = loaded(row.diffusion, home.folder(row)) if home.look(row).state is State.COMPLETE else ()
    work = prod(parse_size(claim.params["size"])) * int(claim.params["frames"])
    after = last.profile if last is not None and last.step_id == claim.step_id else None
    return profile_for(row, vram_mb, parts, work, after=after).name
