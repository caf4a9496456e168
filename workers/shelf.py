"""What this worker can offer just now: its engines, and of those that need weights the models that lie here and fit."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from framewright import catalogue
from framewright.catalogue.row import ModelRow
from framewright.errors import FramewrightError
from framewright.models.estimate import estimate
from framewright.models.home import Home, State
from framewright.settings import Settings
from workers.verdict import sentence

LOOK_S: Final = 15.0
"""A model that was pulled or removed is noticed within this."""
_ROOM: Final = 1.2
"""Without a GPU a model runs in the machine's memory, and takes this much of its weights' size there."""


class Shelf:
    """Looks at the models' folder now and then; safe to ask from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._home = Home.of(settings)
        self._looking = threading.Lock()
        self._seen_at = -LOOK_S
        self._offered: tuple[str, ...] = ()
        self._refused: Mapping[str, str] = MappingProxyType({})

    def offered(self, facts: Mapping[str, Any]) -> tuple[str, ...]:
        """Capabilities of catalogue rows, as steps name them, for a machine with those `facts` (of the probe)."""
        with self._looking:
            self._look(facts)
            return self._offered if facts.get("engines") else ()

    def refused(self, facts: Mapping[str, Any]) -> Mapping[str, str]:
        """Models of which something lies here and which still cannot run: why, as a sentence without paths."""
        with self._looking:
            self._look(facts)
            return self._refused

    def _look(self, facts: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if not facts.get("engines") or now - self._seen_at < LOOK_S:
            return
        rows = catalogue.rows(test_engines=self._settings.test_engines)
        mine = [
            row
            for row in rows
            if row.queue in self._settings.queues and row.engine in facts["engines"] and not row.elsewhere
        ]
        wrong = {row.name: self._wrong(row, facts) for row in mine}
        self._offered = tuple(dict.fromkeys(row.capability for row in mine if wrong[row.name] is None))
        self._refused = MappingProxyType({name: sentence(why) for name, why in wrong.items() if why})
        self._seen_at = now

    def _wrong(self, row: ModelRow, facts: Mapping[str, Any]) -> str | None:
        """What keeps a row from running here; empty when it is just not here, None when nothing does."""
        if row.diffusion is None:
            return None
        try:
            if self._home.look(row).state is State.ABSENT:
                return ""
            self._home.ready(row)
            if vram_mb := int(facts.get("vram_mb", 0)):
                least = min(profile.vram_mb for profile in row.diffusion.profiles)
                return None if least <= vram_mb else _too_small("GPU memory", least / 1000, vram_mb / 1000)
            needed, there = estimate(row, self._home).size * _ROOM, int(facts["memory_mb"]) << 20
            return None if needed <= there else _too_small("memory", needed / 1e9, there / 1e9)
        except FramewrightError as error:
            return error.detail
        except OSError as error:
            return f"its weights cannot be read: {error.strerror}"


def _too_small(what: str, needed_gb: float, there_gb: float) -> str:
    return f"it needs at least {needed_gb:.3g} GB of {what}, and this worker has {there_gb:.3g} GB"
