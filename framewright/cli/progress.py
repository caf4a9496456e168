"""How far things are: bars that move on a terminal, plain lines where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from framewright.cli.output import Out, seconds_text, size_text, visible

LINE_S = 1.0


class Bar(Protocol):
    """One thing in progress. `text` replaces what is said behind the bar; `fraction` is 0..1."""

    def update(self, fraction: float, text: str, *, label: str | None = None) -> None: ...
    def note(self, text: str) -> None: ...


class Quiet:
    """For `--json` without a terminal: says nothing."""

    def update(self, fraction: float, text: str, *, label: str | None = None) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Lines(Quiet):
    """A line when the label changes, at the end, and for further tenths, at most one a second: for logs."""

    def __init__(self, out: Out, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.out = out
        self.label = label
        self.clock = clock
        self.tenth = 0
        self.quiet_until = clock() + LINE_S

    def update(self, fraction: float, text: str, *, label: str | None = None) -> None:
        tenth = int(fraction * 10 + 1e-9)
        changed = label is not None and label != self.label
        further = tenth > self.tenth and (fraction >= 1 or self.clock() >= self.quiet_until)
        if changed or further:
            self.label, self.tenth, self.quiet_until = label or self.label, tenth, self.clock() + LINE_S
            self.out.note(f"{self.label}: {fraction:4.0%} {text}".rstrip())

    def note(self, text: str) -> None:
        self.out.note(text)


class Live:
    """A bar on stderr, redrawn in place."""

    def __init__(self, out: Out, label: str) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%", markup=False),
            TextColumn("{task.fields[text]}", markup=False),
            console=out.asides,
        )
        self.task: TaskID = self.progress.add_task(visible(label), total=1.0, text="")

    def update(self, fraction: float, text: str, *, label: str | None = None) -> None:
        self.progress.update(
            self.task, completed=fraction, text=visible(text), description=visible(label) if label else None
        )

    def note(self, text: str) -> None:
        self.progress.console.print(visible(text), markup=False, highlight=False)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()


def bar(out: Out, label: str) -> AbstractContextManager[Bar]:
    """The kind of bar that fits where stderr goes."""
    if sys.stderr.isatty():
        return Live(out, label)
    return Quiet() if out.as_json else Lines(out, label)


def transferred(shown: Bar, clock: Callable[[], float] = time.monotonic) -> Callable[[int, int], None]:
    """A callback (bytes done, bytes in all) that keeps `shown` up to date with amount, speed and time left."""
    began = clock()

    def show(done: int, total: int) -> None:
        took = clock() - began
        text = f"{size_text(done)} of {size_text(total)}"
        if took > 0.5 and done:
            text += f", {size_text(done / took)}/s, {seconds_text((total - done) * took / done)} left"
        shown.update(done / total if total else 1.0, text)

    return show
