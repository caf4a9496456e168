"""What this worker can offer just now: its engines, and of those that need weights the models that lie here and fit."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from framewright import catalogue
from framewright.catalogue.diffusion import Diffusion
from framewright.catalogue.row import ModelRow
from framewright.errors import FramewrightError, InsufficientVram, ModelNotReady
from framewright.models.estimate import Component, loaded
from framewright.models.home import Home, OnDisk, State
from framewright.models.memory import MB, loaded_bytes, profile_for, too_small
from framewright.settings import Settings
from framewright.waiting import SHORT_OF_MEMORY
from workers.verdict import sentence

LOOK_S: Final = 15.0
"""A model that was pulled or removed is noticed within this."""
BELIEVED_S: Final = 3600.0
"""So long a runner that could not load a model is believed, unless something changes on disk before that."""
_ROOM: Final = 1.2
"""Without a GPU a model runs in the machine's memory, and takes this much of its weights' size there."""
_SILENT: Final = "the GPU driver of this worker does not say which GPUs there are; its log says why"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a model that is here cannot run: an error's code, and a sentence without paths."""

    code: str
    message: str


_ABSENT: Final = Refusal("absent", "")


@dataclass(frozen=True, slots=True)
class _Told:
    """What a runner said of a model, until when it is believed, and what lay on disk just then."""

    refusal: Refusal
    until: float
    files: frozenset[tuple[str, int, int]]

    @property
    def for_ever(self) -> bool:
        return self.until == inf


class Shelf:
    """Looks at the models' folder now and then; safe to ask from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._home = Home.of(settings)
        self._looking = threading.Lock()
        self._seen_at = -LOOK_S
        self._offered: tuple[str, ...] = ()
        self._refused: Mapping[str, Refusal] = MappingProxyType({})
        self._told: dict[str, _Told] = {}
        self._weighed: dict[str, tuple[OnDisk, tuple[Component, ...]]] = {}

    def offered(self, facts: Mapping[str, Any]) -> tuple[str, ...]:
        """Capabilities of catalogue rows, as steps name them, for a machine with those `facts` (of the probe)."""
        with self._looking:
            self._look(facts)
            return self._offered if facts.get("engines") else ()

    def refused(self, facts: Mapping[str, Any]) -> Mapping[str, Refusal]:
        """Models of which something lies here and which still cannot run, and why."""
        with self._looking:
            self._look(facts)
            return self._refused

    def refuse(self, model: str, refusal: Refusal) -> None:
        """A runner could not load a model that was offered: the next question has a new look at all of them.

        It is believed until a file of the model changes, or as long as this worker lives when the GPU is too small.
        """
        until = inf if refusal.code == InsufficientVram.code else time.monotonic() + BELIEVED_S
        with self._looking:
            self._told[model] = _Told(refusal, until, _files(self._home.folder(catalogue.named(model))))
            self._seen_at = -LOOK_S

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
        seen = {row.name: self._believed(row, self._seen(row, facts), now) for row in mine}
        self._offered = tuple(dict.fromkeys(row.capability for row in mine if seen[row.name] is None))
        self._refused = MappingProxyType({name: why for name, why in seen.items() if why and why is not _ABSENT})
        self._seen_at = now

    def _believed(self, row: ModelRow, seen: Refusal | None, now: float) -> Refusal | None:
        """What is seen from here, or else what a runner told while the disk was as it is."""
        told = self._told.get(row.name)
        if told is None or (told.for_ever and seen is not None):
            return seen
        if told.for_ever or (seen is None and now < told.until and told.files == _files(self._home.folder(row))):
            return told.refusal
        del self._told[row.name]
        return seen

    def _seen(self, row: ModelRow, facts: Mapping[str, Any]) -> Refusal | None:
        """What keeps a row from running here, as seen from here."""
        if row.diffusion is None:
            return None
        try:
            here = self._home.look(row)
            return _ABSENT if here.state is State.ABSENT else self._unfit(row, row.diffusion, here, facts)
        except FramewrightError as error:
            return Refusal(error.code, sentence(error.detail))
        except OSError as error:
            return Refusal(ModelNotReady.code, f"the weights of {row.name} cannot be read: {error.strerror}")

    def _unfit(self, row: ModelRow, model: Diffusion, here: OnDisk, facts: Mapping[str, Any]) -> Refusal | None:
        folder = self._home.ready(row)
        known, parts = self._weighed.get(row.name, (None, ()))
        if known != here:
            parts = loaded(model, folder)
            self._weighed[row.name] = (here, parts)
        if "vram_mb" not in facts:
            return Refusal(ModelNotReady.code, f"{row.name} is not ready: {_SILENT}")
        if vram_mb := int(facts["vram_mb"]):
            profile_for(row, vram_mb, parts)
            return None
        needed, there = sum(loaded_bytes(model, parts)) * _ROOM / MB, float(facts["memory_mb"])
        return Refusal(SHORT_OF_MEMORY, too_small(row.name, needed, there, "memory")) if needed > there else None


def _files(folder: Path) -> frozenset[tuple[str, int, int]]:
    """Every file below a folder, with its size and when it last changed in any way."""
    found = set()
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                facts = (path := Path(root, name)).lstat()
                found.add((str(path), facts.st_size, facts.st_ctime_ns))
    return frozenset(found)
