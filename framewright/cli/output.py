"""Results on stdout, everything said along the way on stderr; with `--json` stdout holds JSON and nothing else."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from rich.console import Console

from framewright.cli.exits import written

COLOURS = {
    "succeeded": "green",
    "ok": "green",
    "running": "cyan",
    "failed": "red",
    "missing": "red",
    "canceled": "yellow",
    "warning": "yellow",
}

MORE = "There are more; use --limit"


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Rich would exit with 1, which is the status of a failed job."""
        raise BrokenPipeError


@dataclass(frozen=True, slots=True)
class Out:
    """How one command talks. `as_json` is its `--json`."""

    as_json: bool = False

    @property
    def results(self) -> Console:
        return _Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=True)

    @property
    def asides(self) -> Console:
        return _Console(file=sys.stderr, highlight=False, markup=False, soft_wrap=True)

    def json(self, document: object) -> None:
        """One JSON document on a line of its own, flushed, so that a reader can act on it at once."""
        with written():
            sys.stdout.write(json.dumps(document, separators=(",", ":"), default=str) + "\n")

    def answer(self, document: object, *lines: str) -> None:
        """The result of a command: the document with `--json`, else lines for people."""
        if self.as_json:
            self.json(document)
            return
        for line in lines:
            self.line(line)

    def line(self, text: str, style: str | None = None) -> None:
        with written():
            self.results.print(visible(text), style=style)

    def note(self, text: str, style: str | None = None) -> None:
        """Something worth saying that is no result; nothing with `--json`."""
        if not self.as_json:
            self.asides.print(visible(text), style=style)

    def table(self, head: Sequence[str], rows: Iterable[Sequence[object]], *, coloured: int | None = None) -> None:
        """Aligned columns, never cut or wrapped, so that they can be piped; `coloured` is the column of a status."""
        cells = [[visible("-" if cell is None else str(cell)) for cell in row] for row in rows]
        if not cells:
            self.note("nothing there")
            return
        widths = [max(len(row[i]) for row in [list(head), *cells]) for i in range(len(head))]
        console = self.results
        titles = [title.upper() for title in head]
        with written():
            for row in (titles, *cells):
                style = COLOURS.get(row[coloured]) if coloured is not None else None
                text = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                console.print(text, style="bold" if row is titles else style)


def listed(found: Sequence[Any], *, more: bool) -> dict[str, Any]:
    """The `--json` of a list, in the shape of the API's own pages."""
    ids = [one.id for one in found]
    return {
        "object": "list",
        "data": [one.document for one in found],
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": more,
    }


def visible(text: str) -> str:
    """The text with control and direction-changing characters spelt out, so that data cannot drive the terminal."""
    return "".join(
        char if char == "\n" or unicodedata.category(char) not in {"Cc", "Cf", "Cs"} else f"\\u{ord(char):04x}"
        for char in text
    )


def size_text(count: float) -> str:
    """Bytes for people: `512 B`, `3.4 kB`, `1.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def seconds_text(seconds: float) -> str:
    """A duration for people: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def rate_text(fps: str | float | None) -> str:
    """Frames a second for people; exact rates such as `30000/1001` become decimals."""
    if fps is None:
        return "? fps"
    number, _, over = str(fps).partition("/")
    return f"{float(number) / float(over or 1):.5g} fps"


def picture_text(facts: Any) -> str:
    """`1280x720, 96 frames, 4.0 s, 24 fps` of an output or an asset, as far as it is known."""
    parts = []
    if facts.width and facts.height:
        parts.append(f"{facts.width}x{facts.height}")
    if facts.duration_s:
        parts += [f"{facts.frames} frames", seconds_text(facts.duration_s), rate_text(facts.fps)]
    return ", ".join(parts)
