"""`models ls|show|pull|verify|rm|du`: weights on this machine. Only `pull` asks anybody, and that is the hub."""

from __future__ import annotations

import argparse
import getpass
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from framewright import catalogue
from framewright.catalogue.row import ModelRow
from framewright.cli.exits import Exit, UsageError
from framewright.cli.output import COLOURS, Out, size_text
from framewright.cli.progress import Bar, bar, transferred
from framewright.errors import ModelNotReady
from framewright.models.estimate import estimate
from framewright.models.home import Home, OnDisk, State, repositories
from framewright.models.manifest import Consent, now
from framewright.models.pull import pull
from framewright.models.together import Progress
from framewright.models.verify import remove, usage, verify
from framewright.settings import ModelSettings, model_settings

PULSE_S = 0.5
STYLES = {State.COMPLETE: COLOURS["ok"], State.PARTIAL: COLOURS["warning"], State.DAMAGED: COLOURS["failed"]}


def ls(_: argparse.Namespace, out: Out) -> int:
    home = _here()[1]
    found = [(row, home.look(row)) for row in _pulled()]
    if out.as_json:
        out.json({"object": "list", "data": [_document(row, here) for row, here in found]})
        return 0
    columns = ("model", "state", "size", "licence", "about")
    out.table(columns, [_line(row, here) for row, here in found])
    for _row, here in found:
        if here.state is State.DAMAGED:
            out.note(f"{here.why}\n  fix: {here.fix}", STYLES[here.state])
    return 0


def show(args: argparse.Namespace, out: Out) -> int:
    home = _here()[1]
    (row,) = _named([args.model])
    here, weighs = home.look(row), estimate(row, home)
    parts = [{"name": part.name, "bytes": part.size, "dtypes": dict(part.bytes_by_dtype)} for part in weighs.components]
    document = _document(row, here) | {"components": parts, "least_vram_mb": weighs.vram_mb, "basis": weighs.basis}
    sources = [f"{source['repo']} at {source['revision'] or 'its newest commit'}" for source in document["sources"]]
    lines = [f"{row.name}: {row.title}", f"  state     {here.state}" + (f": {here.why}" if here.why else "")]
    lines += [f"  fix       {here.fix}"] if here.fix else []
    lines += [f"  folder    {here.folder} ({size_text(here.size)})"]
    lines += [f"  from      {source}" for source in sources]
    lines += [f"  {line}" for line in _licence(row)] + [f"  accepted  {'yes' if here.accepted else 'no'}"]
    lines += [f"  least GPU {weighs.vram_mb / 1000:.0f} GB"] if weighs.vram_mb else []
    lines += [
        f"  {part.name:<24} {size_text(part.size):>9}  {', '.join(part.bytes_by_dtype)}" for part in weighs.components
    ]
    out.answer(document, *lines)
    return 0


def fetch(args: argparse.Namespace, out: Out) -> int:
    settings, home = _here()
    for row in _named(args.models):
        for line in _licence(row):
            out.note(line)
        with bar(out, row.name) as shown:
            manifest = pull(
                row,
                home,
                hub_url=settings.hub_url,
                token=settings.token,
                agree=_agree(args, out),
                report=_reporter(out, shown),
            )
        here = home.look(row)
        out.answer(
            {"event": "complete"} | _document(row, here),
            f"{row.name} is complete: {size_text(manifest.size)} in {here.folder}, commit {here.revision}",
        )
    return 0


def check(args: argparse.Namespace, out: Out) -> int:
    """Status 6 when any file is not what was pulled."""
    home = _here()[1]
    named = (
        _named(args.models) if args.models else [row for row in _pulled() if home.look(row).state is not State.ABSENT]
    )
    wrong = False
    for row in named:
        with bar(out, row.name) as shown:
            found = verify(row, home, _reporter(out, shown))
        wrong = wrong or bool(found.wrong)
        lines = [f"{row.name}: {path} is not what was pulled" for path in found.wrong]
        lines += (
            [f"  fix: framewright models pull {row.name}"]
            if lines
            else [f"{row.name}: {size_text(found.size)}, all right"]
        )
        out.answer({"event": "verified", "ok": not found.wrong} | asdict(found), *lines)
    if not named:
        out.note("there are no weights on this machine")
    return Exit.MACHINE if wrong else Exit.OK


def rm(args: argparse.Namespace, out: Out) -> int:
    home = _here()[1]
    for row in _named(args.models):
        here = home.look(row)
        if here.state is State.ABSENT:
            raise ModelNotReady(f"the weights of {row.name} are not on this machine")
        question = f"Remove {here.folder} ({size_text(here.size)})?"
        if not args.yes and not _asked(question, out, "add --yes to remove without a question"):
            out.answer({"model": row.name, "removed": False}, f"{row.name} was left alone")
            continue
        freed = remove(row, home)
        out.answer(
            {"model": row.name, "removed": True, "bytes": freed}, f"{row.name} removed, {size_text(freed)} freed"
        )
    return 0


def du(_: argparse.Namespace, out: Out) -> int:
    home = _here()[1]
    uses = usage(home, tuple(_pulled()))
    there = next(parent for parent in (home.root, *home.root.parents) if parent.exists())
    free, total = shutil.disk_usage(there).free, sum(use.size for use in uses)
    if out.as_json:
        document = {"folder": str(home.root), "bytes": total, "free_bytes": free, "data": [asdict(use) for use in uses]}
        out.json(document)
        return 0
    out.table(
        ("model", "size", "known"), [(use.name, size_text(use.size), "yes" if use.known else "no") for use in uses]
    )
    out.line(f"{size_text(total)} in {home.root}, {size_text(free)} free")
    return 0


def _here() -> tuple[ModelSettings, Home]:
    """The settings of this machine, with the operator's own models among the rows from now on."""
    settings = model_settings()
    catalogue.install(settings.catalogue)
    return settings, Home.of(settings)


def _pulled() -> list[ModelRow]:
    return [row for row in catalogue.rows() if row.diffusion is not None]


def _named(names: Iterable[str]) -> list[ModelRow]:
    known = {row.name: row for row in _pulled()}
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise UsageError(f"no model with weights is named {unknown}; there are: {', '.join(known) or 'none'}")
    return [known[name] for name in dict.fromkeys(names)]


def _agree(args: argparse.Namespace, out: Out) -> Callable[[ModelRow], Consent | None]:
    """Consent by the switch, or by a person at a terminal; None from a script that gave no switch."""

    def agree(row: ModelRow) -> Consent | None:
        how = "--accept-licence"
        if not args.accept_licence:
            if out.as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
                return None
            how = "a question at the terminal"
            if not _asked(f"Do you accept the licence {row.licence.name} of {row.name}?", out, ""):
                return None
        return Consent(licence=row.licence.name, by=_me(), at=now(), how=how)

    return agree


def _asked(question: str, out: Out, otherwise: str) -> bool:
    if out.as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"nobody is here to ask: {otherwise}")
    out.asides.print(f"{question} [y/N] ", end="")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _me() -> str:
    """Who gives consent: the account and the machine."""
    user = "unknown"
    with suppress(KeyError, OSError):
        user = getpass.getuser()
    return f"{user}@{socket.gethostname()}"


def _reporter(out: Out, shown: Bar, clock: Callable[[], float] = time.monotonic) -> Callable[[Progress], None]:
    """The bar, and with `--json` a line for each file and for every half second."""
    moved, last = transferred(shown), 0.0

    def report(progress: Progress) -> None:
        nonlocal last
        moved(progress.done, progress.total)
        if out.as_json and (progress.file is not None or clock() - last >= PULSE_S):
            last = clock()
            out.json({"event": "progress"} | asdict(progress))

    return report


def _licence(row: ModelRow) -> list[str]:
    licence = row.licence
    terms = [] if licence.commercial else ["not for commercial use"]
    terms += [licence.note] if licence.note else []
    lines = [f"licence   {licence.name}" + (f" ({'; '.join(terms)})" if terms else "")]
    return lines + ([f"          {licence.url}"] if licence.url else [])


def _line(row: ModelRow, here: OnDisk) -> tuple[object, ...]:
    licence = row.licence.name + ("" if here.accepted else " (not accepted)")
    return row.name, str(here.state), size_text(here.size) if here.size else None, licence, row.title


def _document(row: ModelRow, here: OnDisk) -> dict[str, Any]:
    pulled = {part: source.revision for part, source in here.manifest.sources.items()} if here.manifest else {}
    return {
        "model": row.name,
        "title": row.title,
        "state": str(here.state),
        "why": here.why,
        "fix": here.fix,
        "folder": str(here.folder),
        "bytes": here.size,
        "sources": [
            {"of": part, "repo": repo.id, "revision": pulled.get(part, repo.revision), "gated": repo.gated}
            for part, repo in repositories(row).items()
        ],
        "licence": asdict(row.licence),
        "accepted": here.accepted,
        "consent": here.manifest.consent.model_dump() if here.manifest and here.manifest.consent else None,
        "verified_at": here.manifest.verified_at if here.manifest else None,
    }
