"""What was measured, where and when: a JSON file that keeps, and a table to read."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

import framewright

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figure:
    """One number, with the most it should be where there is an aim, and what it was made from."""

    name: str
    title: str
    value: float
    unit: str
    aim: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """How it stands to its aim, for a reader; nothing here fails for it."""
        if self.aim is None:
            return ""
        return "met" if self.value <= self.aim else "missed"

    def as_json(self) -> dict[str, Any]:
        aim = {} if self.aim is None else {"aim_at_most": self.aim, "verdict": self.verdict}
        return {"title": self.title, "value": rounded(self.value), "unit": self.unit, **aim, "detail": self.detail}


class Figures:
    """The figures of one run. A later run of the same day on the same class of machine replaces what it measures."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._taken: list[Figure] = []
        self._json: dict[str, dict[str, Any]] = {}
        self._versions: dict[str, str] = {}
        # Now, not when the file is written: the processes that are measured start from what lies here now.
        self._commit = _said("git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty")

    def say(self, text: str) -> None:
        """Progress, for whoever waits."""
        print(f"  {time.monotonic() - self._begun:6.0f} s  {text}", flush=True)

    def add(self, figure: Figure) -> None:
        self._taken.append(figure)
        self._json[figure.name] = {
            **figure.as_json(),
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": self._commit,
            "load_average": [round(load, 2) for load in os.getloadavg()],
        }
        self.say(f"{figure.title}: {shown(figure.value)} {figure.unit}")

    def version(self, name: str, text: str) -> None:
        """The version of a server that took part."""
        self._versions[name] = text

    def write(self, folder: Path = RESULTS) -> Path | None:
        """Writes the JSON file; None when nothing was measured."""
        if not self._json:
            return None
        path = folder / f"{datetime.now(UTC):%Y-%m-%d}-{host_class()}.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        servers = {**known.get("servers", {}), **self._versions}
        figures = {**known.get("figures", {}), **self._json}
        folder.mkdir(exist_ok=True)
        path.write_text(json.dumps({"host": host_facts(), "servers": servers, "figures": figures}, indent=2) + "\n")
        return path

    def table(self) -> list[str]:
        """One line a figure."""
        rows = [("figure", "value", "unit", "aim", "")]
        for one in self._taken:
            aim = "" if one.aim is None else f"<= {shown(one.aim)}"
            rows.append((one.title, shown(one.value), one.unit, aim, one.verdict))
        widths = [max(len(row[at]) for row in rows) for at in range(5)]
        return [
            f"{title:<{widths[0]}}  {value:>{widths[1]}} {unit:<{widths[2]}}  {aim:<{widths[3]}}  {verdict}".rstrip()
            for title, value, unit, aim, verdict in rows
        ]


def rounded(value: float) -> float:
    """Four digits that mean something."""
    return float(f"{value:.4g}")


def shown(value: float) -> str:
    return f"{rounded(value):,.10g}"


def spread(values: Sequence[float]) -> dict[str, float]:
    """Count, median, p90, p99 and extremes of a distribution."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    numbers = {"min": min(values), "p50": cuts[49], "p90": cuts[89], "p99": cuts[98], "max": max(values)}
    return {"n": len(values), **{name: rounded(value) for name, value in numbers.items()}}


def host_class() -> str:
    """Machines of one class may be compared with care, others not at all."""
    return f"{platform.system()}-{platform.machine()}-{psutil.cpu_count()}c".lower()


def host_facts() -> dict[str, Any]:
    return {
        "class": host_class(),
        "cpu": _cpu(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "framewright": framewright.__version__,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return _said("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
