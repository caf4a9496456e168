"""The catalogue: one row a model. Facts about a model live in its row and nowhere else."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from framewright.catalogue import camera_move, hevc, scripted
from framewright.catalogue.row import InputRule, Licence, ModelRow, Preset
from framewright.errors import FieldError, UnknownModel
from framewright.params import params_schema

__all__ = ["InputRule", "Licence", "ModelRow", "Preset", "describe", "find", "kinds", "rows"]

_ROWS: tuple[ModelRow, ...] = (camera_move.ROW, hevc.ROW, scripted.ROW)


def rows(*, test_engines: bool = False) -> tuple[ModelRow, ...]:
    """Every row on offer; rows made for tests only when `test_engines` (`settings.test_engines`) is on."""
    return tuple(row for row in _ROWS if test_engines or not row.test_only)


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
        "presets": [
            {"name": preset.name, "title": preset.title, "params": dict(preset.params)} for preset in row.presets
        ],
        "params_schema": params_schema(row.params),
    }
