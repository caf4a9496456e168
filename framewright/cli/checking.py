"""`doctor`: this machine, then the service that commands would talk to."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import TypeVar
from urllib.parse import urlsplit

from framewright.cli.exits import Exit, UsageError
from framewright.cli.output import COLOURS, Out
from framewright.cli.target import latest, resolve, running
from framewright.client import ApiError, Backoff, Client, Unreachable
from framewright.doctor import Finding, State, examine, skew
from framewright.embedded import default_data_dir
from framewright.errors import Forbidden

T = TypeVar("T")

MARKS = {State.OK: "ok     ", State.WARNING: "warning", State.MISSING: "MISSING"}


def doctor(args: argparse.Namespace, out: Out) -> int:
    """Look at everything; status 6 when something is missing, 0 when there are only warnings."""
    findings = []
    for finding in _findings(args):
        findings.append(finding)
        if not out.as_json:
            out.line(f"{MARKS[finding.state]}  {finding.name}: {finding.detail}", COLOURS[finding.state])
            if finding.fix:
                out.line(f"         fix: {finding.fix}")
    missing = [finding for finding in findings if finding.state == State.MISSING]
    if out.as_json:
        out.json({"ok": not missing, "findings": [finding.as_json() for finding in findings]})
    else:
        out.line(f"{len(missing)} missing" if missing else "nothing is missing")
    return Exit.MACHINE if missing else Exit.OK


def _findings(args: argparse.Namespace) -> Iterator[Finding]:
    here = running(latest())
    yield from examine(args.data or (here and here.data) or default_data_dir(), args.port)
    try:
        url, api_key = resolve(args)
    except UsageError:
        yield Finding("service", State.OK, "none is named and none runs here; `framewright up` starts one")
        return
    with Client(url, api_key, timeout_s=5, backoff=Backoff(attempts=1)) as client:
        yield from _service(client, url)


def _service(client: Client, url: str) -> Iterator[Finding]:
    try:
        clock = client.clock()
        client.ready()
    except ApiError as error:
        yield Finding(
            "service", State.MISSING, f"{url}: {error.detail}", "see what it names; framewright doctor on its host"
        )
        return
    except Unreachable as error:
        yield Finding("service", State.MISSING, error.detail, "framewright up, or correct FRAMEWRIGHT_URL")
        return
    yield Finding("service", State.OK, f"{url} takes jobs")
    if clock:
        yield skew("service clock", clock.timestamp() - time.time())
    yield from _key(client, url)


def _key(client: Client, url: str) -> Iterator[Finding]:
    """Whether the key is good, workers are there, and links lead back to where we asked."""
    try:
        jobs = _permitted(lambda: client.jobs.page({"limit": 1}))
        workers = _permitted(client.workers.page)
    except ApiError as error:
        fix = "set FRAMEWRIGHT_API_KEY; make a key with `framewright keys create NAME`"
        yield Finding("key", State.MISSING, error.detail, fix)
        return
    lacks = [scope for scope, page in (("jobs:read", jobs), ("ops:read", workers)) if page is None]
    if lacks:
        detail = f"accepted, but it lacks {' and '.join(lacks)}, so this check is shorter"
        fix = "with an admin key: framewright keys create doctor --scope jobs:read --scope ops:read"
        yield Finding("key", State.WARNING, detail, fix)
    else:
        yield Finding("key", State.OK, "accepted")
    if workers is None:
        pass
    elif workers.data:
        yield Finding("workers", State.OK, f"{len(workers.data)}")
    else:
        yield Finding(
            "workers", State.WARNING, "none; jobs will wait", "python -m workers.start on a machine with the hardware"
        )
    for job in jobs or ():
        link = str(job.links.get("self", ""))
        if urlsplit(link).netloc != urlsplit(url).netloc:
            detail = f"links lead to {urlsplit(link).netloc}, not to {urlsplit(url).netloc}"
            yield Finding("public URL", State.WARNING, detail, f"set FRAMEWRIGHT_PUBLIC_URL={url} for the API")
        else:
            yield Finding("public URL", State.OK, url)


def _permitted(look: Callable[[], T]) -> T | None:
    """What the key may see; None when it lacks the scope."""
    try:
        return look()
    except ApiError as error:
        if error.code == Forbidden.code:
            return None
        raise
