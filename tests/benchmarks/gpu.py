"""How fast this GPU makes clips, as our worker and as a stock diffusers worker does, turn about, in one run.

    PYTHONPATH=. python tests/benchmarks/gpu.py --json gpu.json           # all cases, within --budget-s seconds
    PYTHONPATH=. python tests/benchmarks/gpu.py --case tiny               # a few seconds on any CPU

From the root of a checkout, where torch, diffusers, transformers and imageio-ffmpeg are installed; it needs
nothing else and asks no network. Weights are random. The JSON goes to stdout; the table, and what it is doing, to
stderr. Nothing here says what is fast enough: ratios within one run count, and a GPU that others use at the same time
gives no figures at all.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bare  # before anything of ours, some of whose packages may be missing
import diffusers
import gpu_paths as paths
import gpu_report as report
import torch
import transformers
from gpu_flops import TERA, Work, ceiling, counted, weights_gb
from gpu_models import CASES, TINY, Built, Case
from gpu_paths import Clip

from workers.diffusion.stepping import Snapshot

_PART = 0.35
"""Of the ceiling, that is expected before anything is measured."""
_WARM_STEPS = 2
_OVERHEAD_S = 25.0
"""What a case takes besides its clips: making the weights, counting, the first use of kernels."""


class Budget:
    """The seconds there are. What does not fit any more is left out, and that is said.

    `kept` is what later cases need, which nothing optional may take.
    """

    def __init__(self, seconds: float) -> None:
        self._begun, self.seconds, self.kept = time.monotonic(), seconds, 0.0
        self.skipped: list[dict[str, Any]] = []

    @property
    def spent(self) -> float:
        return time.monotonic() - self._begun

    def has(self, seconds: float, case: str, what: str, *, kept: float | None = None) -> bool:
        left = self.seconds - self.spent - (self.kept if kept is None else kept)
        if seconds <= left:
            return True
        self.skipped.append({"case": case, "what": what, "needs_s": round(seconds, 1), "left_s": round(left, 1)})
        self.say(f"{case}: no time for {what}, which takes about {seconds:.0f} s of {left:.0f} s left")
        return False

    def say(self, text: str) -> None:
        print(f"  {self.spent:6.1f} s  {text}", file=sys.stderr, flush=True)


def least_s(case: Case, work: Work, device: torch.device, most: float) -> float:
    """Seconds that the least of a case takes, a guess from its arithmetic: the warm-up and one pair."""
    if device.type != "cuda":
        return 5.0
    return _OVERHEAD_S + 2 * work.clip / (most * TERA * _PART) * (1 + _WARM_STEPS / case.steps)


def measured(
    name: str, case: Case, work: Work, device: torch.device, *, most: float, budget: Budget, clips: int
) -> dict[str, Any]:
    """Everything about one case that there is time for: at least one pair."""
    begun = time.monotonic()
    built = case.build(device)
    budget.say(f"{name}: {weights_gb(built):.1f} GB of weights made in {time.monotonic() - begun:.1f} s")
    for warm in (paths.stock, paths.ours):
        warm(case, built, 0, steps=_WARM_STEPS)
    theirs: list[Clip] = []
    mine: list[Clip] = []
    for number in range(1, clips + 1):
        if theirs and not budget.has(theirs[-1].wall_s + mine[-1].wall_s, name, f"pair {number} of {clips}"):
            break
        theirs.append(paths.stock(case, built, number))
        mine.append(paths.ours(case, built, number))
        budget.say(f"{name}: {number} of {clips}: stock {theirs[-1].wall_s:.2f} s, ours {mine[-1].wall_s:.2f} s")
        if number == 1:
            # While there is time: what tells the two apart is worth more than another pair.
            extras = _extras(name, case, built, mine[0], budget)
    found: dict[str, Any] = {
        "shape": f"{case.size[1]}x{case.size[0]}x{case.frames}",
        "row": case.row,
        "steps": case.steps,
        "guidance": case.guidance,
        "fps": float(case.facts.fps),
        "pairs": len(mine),
        "parameters": work.parameters,
        "weights_gb": weights_gb(built),
        "tflop": {"text": work.text / TERA, "step": work.step / TERA, "vae": work.vae / TERA, "clip": work.clip / TERA},
        "stock": report.summary(theirs, work, most),
        "ours": report.summary(mine, work, most),
    }
    ratio = report.ratios(found["stock"], found["ours"])
    return {**found, "ratio": ratio, **report.control(extras, theirs, mine, work)}


def _extras(name: str, case: Case, built: Built, usual: Clip, budget: Budget) -> dict[str, Any]:
    """Clips under step control with nothing on, one that is gone on with from the middle, one with many previews."""
    extras: dict[str, Any] = {}
    half = max(1, case.steps // 2)
    if budget.has(usual.wall_s, name, "step control alone, and resuming"):
        extras["control"] = paths.ours(case, built, 1, paths.BARE)
    if "control" in extras and budget.has(1.6 * usual.wall_s, name, "resuming"):

        def keep(reached: Any) -> None:
            if reached.step == half:
                reached.snapshot().save(kept)
                raise _Enough

        with tempfile.TemporaryDirectory() as place:
            kept = Path(place) / "half.pt"
            with contextlib.suppress(_Enough):
                paths.ours(case, built, 1, paths.BARE, keep=keep)
            begun = time.perf_counter()
            snapshot = Snapshot.load(kept)
            extras["load_s"] = time.perf_counter() - begun
        extras["resumed"] = paths.ours(case, built, 1, paths.BARE, resume=snapshot)
    if budget.has(usual.wall_s, name, "a preview at every step"):
        extras["showing"] = paths.ours(case, built, 1, paths.SHOWING)
    return extras


class _Enough(Exception):
    """Ends a clip where its other half is to begin."""


def benchmark(
    names: Sequence[str], device: torch.device, budget: Budget, clips: int, keep: Callable[[dict[str, Any]], object]
) -> dict[str, Any]:
    """The report of those cases, in that order; `keep` sees it grow. A case that fails says why and ends no other."""
    top = ceiling(device)
    budget.say(f"{_device(device)['name']}: {top['tflops']:.3g} TFLOP/s of {top['dtype']} products")
    known = {name: {**CASES, **TINY}[name] for name in names}
    works = {name: counted(case) for name, case in known.items()}
    least = {name: least_s(case, works[name], device, top["tflops"]) for name, case in known.items()}
    found: dict[str, Any] = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": _device(device),
        "versions": {one.__name__: one.__version__ for one in (torch, diffusers, transformers)},
        "absent": bare.ABSENT,
        "stock_export": paths.exporter(),
        "ceiling": top,
        "budget_s": budget.seconds,
        "cases": {},
        "skipped": budget.skipped,
    }
    for name, case in known.items():
        if budget.has(least.pop(name), name, "any of it", kept=0.0):
            budget.kept = sum(least.values())
            with _room(device):
                found["cases"][name] = _tried(
                    name, case, works[name], device, most=top["tflops"], budget=budget, clips=clips
                )
        found["spent_s"] = budget.spent
        keep(found)
    return found


def _tried(name: str, *args: Any, budget: Budget, **kwargs: Any) -> dict[str, Any]:
    try:
        return measured(name, *args, budget=budget, **kwargs)
    except Exception as error:  # libraries raise all kinds, and the other cases are worth their time
        traceback.print_exc()
        budget.say(f"{name}: failed")
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


@contextlib.contextmanager
def _room(device: torch.device) -> Iterator[None]:
    """Gives the device's memory back afterwards, for the next model."""
    try:
        yield
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _device(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"kind": device.type, "name": device.type, "threads": torch.get_num_threads()}
    facts = torch.cuda.get_device_properties(device)
    return {"kind": "cuda", "name": facts.name, "vram_gb": facts.total_memory / 1e9, "cuda": torch.version.cuda}


def main(argv: Sequence[str] | None = None, say: Callable[[str], object] = print) -> dict[str, Any]:
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=[*CASES, *TINY], help="one of them; may be said again")
    parser.add_argument("--clips", type=int, default=3, help="pairs a case, where there is time")
    parser.add_argument("--budget-s", type=float, default=500.0, help="seconds after which nothing new is begun")
    parser.add_argument("--device", default=usual)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there as well")
    asked = parser.parse_args(argv)
    names = asked.case or list(CASES if usual == "cuda" else TINY)
    device = torch.device(asked.device)
    if device.type == "cpu":
        # Two threads are slower than one on networks of this size.
        torch.set_num_threads(1)

    def keep(found: dict[str, Any]) -> None:
        if asked.json is not None:
            asked.json.write_text(json.dumps(found, indent=2) + "\n")

    found = benchmark(names, device, Budget(asked.budget_s), asked.clips, keep)
    say(json.dumps(found, indent=2))
    print("\n".join(report.table(found)), file=sys.stderr)
    return found


if __name__ == "__main__":
    main()
