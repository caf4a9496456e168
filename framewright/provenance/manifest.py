"""What a manifest says: pure, from the facts of a step to the document that gets signed. No prompt and no parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import framewright
from framewright.catalogue.row import DigitalSource, Provenance
from framewright.provenance.labels import JOB, SOURCES

CREATED: Final = "c2pa.created"
MOST_INGREDIENTS: Final = 64
"""Further inputs are counted and not listed: each costs about 1.2 kB of every output, and time."""


@dataclass(frozen=True, slots=True)
class Input:
    """One input file of a step: `title` is the public id of its asset."""

    path: Path
    content_type: str
    title: str


@dataclass(frozen=True, slots=True)
class Making:
    """How a step made its outputs; `job` is a public id."""

    job: str
    step: str
    model: str
    provenance: Provenance
    inputs: tuple[Input, ...] = field(default=())


def relation(making: Making) -> str:
    """What the inputs are to the output: `parentOf` (it is one of them, changed), `componentOf` or `inputTo`."""
    if making.provenance.action == CREATED:
        return "inputTo"
    return "parentOf" if len(making.inputs) == 1 else "componentOf"


def listed(making: Making) -> Sequence[Input]:
    """The inputs that become ingredients."""
    return making.inputs[:MOST_INGREDIENTS]


def label(index: int) -> str:
    """The name under which the actions refer to ingredient `index`."""
    return f"input-{index}"


def ingredients(making: Making) -> list[dict[str, Any]]:
    """The ingredients, in the order of `listed`."""
    kind = relation(making)
    return [
        {"title": one.title, "format": one.content_type, "relationship": kind, "label": label(index)}
        for index, one in enumerate(listed(making))
    ]


def document(making: Making, output: str, at: datetime) -> dict[str, Any]:
    """The manifest of the output of that name, without its ingredients."""
    return {
        "claim_generator_info": [_generator()],
        "title": output,
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": _actions(making, at)}, "created": True},
            {
                "label": JOB,
                "data": {
                    "job": making.job,
                    "step": making.step,
                    "model": making.model,
                    "output": output,
                    "inputs": len(making.inputs),
                },
                "created": True,
            },
        ],
    }


def _actions(making: Making, at: datetime) -> list[dict[str, Any]]:
    """Every manifest begins with `c2pa.created` or `c2pa.opened`, as the specification wants it."""
    rule = making.provenance
    named = [label(index) for index in range(len(listed(making)))]
    match relation(making):
        case "inputTo":
            return [_action(CREATED, at, rule.source, named, rule.says)]
        case "parentOf":
            return [_action("c2pa.opened", at, None, named), _action(rule.action, at, rule.source, (), rule.says)]
        case _:
            created = _action(CREATED, at, rule.otherwise or DigitalSource.COMPOSITE, (), rule.says)
            return [created, _action("c2pa.placed", at, None, named)] if named else [created]


def _action(
    name: str, at: datetime, source: DigitalSource | None, named: Sequence[str], says: str | None = None
) -> dict[str, Any]:
    made: dict[str, Any] = {"action": name, "when": at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
    if source is not None:
        made["digitalSourceType"] = SOURCES + source
    if says is not None:
        made |= {"description": says, "softwareAgent": _generator()}
    if named:
        made["parameters"] = {"ingredientIds": list(named)}
    return made


def _generator() -> Mapping[str, str]:
    return {"name": "Framewright", "version": framewright.__version__}
