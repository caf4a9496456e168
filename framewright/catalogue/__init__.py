"""The catalogue: one row a model. Facts about a model live in its row and nowhere else."""

from __future__ import annotations

from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from framewright.catalogue import (
    animatediff,
    camera_move,
    cogvideox,
    hevc,
    hosted,
    hunyuan,
    hunyuan15,
    ltx,
    ltx2,
    mochi,
    scripted,
    svd,
    wan,
    wan22,
)
from framewright.catalogue.own import load as load_own
from framewright.catalogue.row import InputRule, Licence, ModelRow, Preset
from framewright.errors import FieldError, UnknownModel
from framewright.params import params_schema

__all__ = ["InputRule", "Licence", "ModelRow", "Preset", "describe", "find", "install", "kinds", "named", "rows"]

_FAMILIES = (wan, wan22, ltx, ltx2, hunyuan, hunyuan15, cogvideox, mochi, svd, animatediff, hosted)
_ROWS: tuple[ModelRow, ...] = (
    camera_move.ROW,
    hevc.ROW,
    scripted.ROW,
    *chain.from_iterable(family.ROWS for family in _FAMILIES),
)
_own: tuple[ModelRow, ...] = ()


def rows(*, test_engines: bool = False) -> tuple[ModelRow, ...]:
    """Every row on offer; rows made for tests only when `test_engines` (`settings.test_engines`) is on."""
    return tuple(row for row in (*_ROWS, *_own) if test_engines or not row.test_only)


def install(file: Path | None) -> None:
    """From now on the operator's own models in `file` are on offer as well, instead of those installed before.

    To be called once by every process that has a catalogue, with `settings.catalogue`. `SettingsError` says what is
    wrong with the file.
    """
    global _own  # noqa: PLW0603 - one catalogue a process, filled from its settings when it starts
    _own = load_own(file, _ROWS)


def kinds(*, test_engines: bool = False) -> frozenset[str]:
    """The kinds that some row can do."""
    return frozenset(kind for row in rows(test_engines=test_engines) for kind in row.kinds)


def find(kind: str, model: str | None, *, test_engines: bool = False, at: str = "") -> ModelRow:
    """The row named `model` for `kind`, or the kind's default; `UnknownModel` names the field below `at`."""
    able = [row for row in rows(test_engines=test_engines) if kind in row.kinds]
    if not able:
        wrong = FieldError(f"{at}/kind", "unsupported_kind", "no model of this installation does this kind of job")
        raise UnknownModel("no model of this installation does this kind of job", fields=(wrong,))
    for row in able:
        if row.name == model or (model is None and kind in row.default_for):
            return row
    known = ", ".join(row.name for row in able)
    sentence = f"there is no such model for this kind of job; there is: {known}"
    raise UnknownModel(sentence, fields=(FieldError(f"{at}/model", "unknown_model", sentence),))


def named(name: str) -> ModelRow:
    """The row of that name, also one made for tests; `UnknownModel` when there is none."""
    for row in rows(test_engines=True):
        if row.name == name:
            return row
    raise UnknownModel(f"this worker's catalogue has no model {name}")


def describe(row: ModelRow) -> dict[str, Any]:
    """What `GET /models` says of a row; who has it loaded and whether it can run now is the caller's to add."""
    return {
        "id": row.name,
        "title": row.title,
        "summary": row.summary,
        "kinds": list(row.kinds),
        "default_for": list(row.default_for),
        "engine": row.engine,
        "queue": row.queue,
        "licence": asdict(row.licence),
        "inputs": [asdict(rule) for rule in row.inputs],
        "output": row.output,
        "size": asdict(row.size),
        "frames": asdict(row.frames),
        "max_pixel_frames": row.max_pixel_frames,
        "needs": asdict(row.needs),
        "tasks": list(row.diffusion.pipelines) if row.diffusion else [],
        "memory": [asdict(profile) for profile in row.diffusion.profiles] if row.diffusion else [],
        "elsewhere": row.elsewhere,
        "presets": [
            {"name": preset.name, "title": preset.title, "params": dict(preset.params)} for preset in row.presets
        ],
        "params_schema": params_schema(row.params),
    }
