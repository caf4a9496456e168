"""What the clips of a case come to: seconds, shares of the ceiling, ratios, and a table to read."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from gpu_flops import TERA, Work
from gpu_paths import STAGES, Clip


def summary(clips: Sequence[Clip], work: Work, most: float) -> dict[str, Any]:
    stages = {stage: statistics.median(one.stages[stage] for one in clips) for stage in STAGES}
    return {
        "s_per_clip": statistics.median(one.wall_s for one in clips),
        "s_per_clip_all": [one.wall_s for one in clips],
        "s_per_step": stages["denoise"] / work.steps,
        "mfu": work.denoise / stages["denoise"] / (most * TERA),
        "mfu_decode": work.vae / stages["decode"] / (most * TERA),
        "peak_vram_gb": max(one.peak_bytes for one in clips) / 1e9 or None,
        "stages_s": stages,
    }


def ratios(stock: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, float]:
    """Ours to stock: below one is quicker."""
    after = [sum(one["stages_s"][stage] for stage in ("copy", "encode")) for one in (ours, stock)]
    return {
        "clip": ours["s_per_clip"] / stock["s_per_clip"],
        "step": ours["s_per_step"] / stock["s_per_step"],
        "after_decode": after[0] / after[1],
    }


def control(extras: Mapping[str, Any], theirs: Sequence[Clip], mine: Sequence[Clip], work: Work) -> dict[str, Any]:
    """What durable steps cost: control itself, snapshots, previews, and going on from one."""
    plain = statistics.median(one.stages["denoise"] for one in theirs)
    each = statistics.median(second for one in mine for second in one.snapshots_s)
    found: dict[str, Any] = {
        "snapshot": {"s": each, "mb": mine[-1].snapshot_bytes / 1e6, "share_of_step": each / (plain / work.steps)}
    }
    if "control" in extras:
        found["step_control"] = {"ratio": extras["control"].stages["denoise"] / plain}
    if "showing" in extras:
        shown = extras["showing"].median("previews_s")
        found["preview"] = {"s": shown, "share_of_step": shown / (plain / work.steps)}
    if "resumed" in extras:
        whole, rest = extras["control"], extras["resumed"]
        step_s = whole.stages["denoise"] / work.steps
        left = work.steps - rest.made.resumed_from
        apart = (whole.made.frames.float() - rest.made.frames.float()).abs().max()
        found["resume"] = {
            "from_step": rest.made.resumed_from,
            "steps": left,
            "load_s": extras["load_s"],
            "forwards": rest.made.forwards,
            "forwards_of_all": whole.made.forwards,
            "overhead_s": rest.stages["denoise"] - left * step_s,
            "identical": bool(apart == 0),
            "most_apart": float(apart),
        }
    return found


def table(report: Mapping[str, Any]) -> list[str]:
    """Two lines a case, and one for what only ours does."""
    heads = ("s/clip", "s/step", "MFU", "VRAM GB", *STAGES)
    lines = [f"{'case':<16}{'':<7}" + "".join(f"{head:>9}" for head in heads)]
    for name, case in report["cases"].items():
        if "error" in case:
            lines.append(f"{name:<16}failed: {case['error']}")
            continue
        for who in ("stock", "ours"):
            one = case[who]
            values = (one["s_per_clip"], one["s_per_step"], one["mfu"], one["peak_vram_gb"], *one["stages_s"].values())
            shown = "".join(f"{'-' if value is None else format(value, '.3f'):>9}" for value in values)
            lines.append(f"{name:<16}{who:<7}{shown}")
        ratio, kept = case["ratio"], case["snapshot"]
        told = [f"clip {ratio['clip']:.3f}x, step {ratio['step']:.3f}x, copy + encode {ratio['after_decode']:.3f}x"]
        told.append(f"snapshot {kept['s'] * 1e3:.1f} ms of {kept['mb']:.1f} MB")
        if "step_control" in case:
            told.insert(1, f"step control alone {case['step_control']['ratio']:.3f}x")
        if "preview" in case:
            told.append(f"preview {case['preview']['s'] * 1e3:.1f} ms")
        if "resume" in case:
            told.append(f"resume {case['resume']['load_s'] + case['resume']['overhead_s']:.3f} s")
        lines.append(f"{'':<16}{'ratio':<7}  " + "; ".join(told))
    lines += [f"left out: {one['case']}, {one['what']}" for one in report["skipped"]]
    return lines
