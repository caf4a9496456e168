"""`verify`: what a file says of its making, and whether that still holds."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from framewright.cli.exits import Exit, about
from framewright.cli.making import existing
from framewright.cli.output import Out
from framewright.cli.progress import bar, transferred
from framewright.cli.target import connect

_WHO = {
    "operator": "the certificate of the service's operator",
    "development": "the development certificate that the service made for itself; nobody else knows it",
}


_WHEN = {
    "trusted": "a time stamp authority vouches",
    "unknown": "a time stamp authority says that the service does not know",
}


def verify(args: argparse.Namespace, out: Out) -> int:
    """Status 7 for a file that is unsigned, or is no longer what was signed."""
    given: str = args.file
    with connect(args) as client:
        if given.startswith("asset_"):
            with about(given):
                said = client.verify_asset(given)
        else:
            path = existing(Path(given))
            with about(path.name), bar(out, f"reading {path.name}") as shown:
                said = client.verify_file(path, progress=transferred(shown))
    out.answer(said, *_lines(said))
    return Exit.OK if said.get("signed") and said.get("valid") else Exit.NOT_GENUINE


def _lines(said: dict[str, Any]) -> Iterator[str]:
    if not said.get("signed"):
        yield "not signed: the file says nothing of how it was made"
        return
    yield "valid: it is as it was signed" if said.get("valid") else "NOT VALID: it is not what was signed"
    signer = said.get("signer") or {}
    names = ", ".join(str(signer[name]) for name in ("name", "organization") if signer.get(name))
    trusted = _WHO.get(str(said.get("trusted")), "a certificate that the service does not know")
    yield f"signed by: {names or 'nobody named'} ({trusted})"
    if said.get("signed_at"):
        yield f"signed at: {said['signed_at']}, as {_WHEN.get(str(said.get('time_stamp')), 'the signer says')}"
    for name in ("generator", "job"):
        if said.get(name):
            yield f"{name}: {said[name]}"
    for action in said.get("actions", ()):
        parts = (action.get("action"), action.get("digital_source_type"), action.get("description"))
        yield "action: " + ", ".join(str(part) for part in parts if part)
    for one in said.get("ingredients", ()):
        own = "its own manifest holds" if one.get("valid") else "its own manifest does NOT hold"
        yield f"made from: {one.get('title')} ({one.get('content_type')}{', ' + own if one.get('signed') else ''})"
    for problem in said.get("problems", ()):
        yield f"problem: {problem.get('code')}: {problem.get('explanation')}"
