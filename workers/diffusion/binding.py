"""What a snapshot is bound to: a run that differs in any of it must start from the beginning."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import diffusers
import torch

VERSION: Final = 1
"""Of what a snapshot holds; a newer one starts old runs from the beginning."""


def digest(
    *,
    model: str,
    revision: str,
    task: str,
    params: Mapping[str, Any],
    inputs: Sequence[str],
    loras: Sequence[str],
    scheduler: Mapping[str, Any],
    dtypes: Mapping[str, str],
    profile: str,
    device: torch.device,
) -> str:
    """SHA-256 (hex) over everything that decides the bits of a run: `inputs` and `loras` are digests of files."""
    facts = {
        "version": VERSION,
        "model": model,
        "revision": revision,
        "task": task,
        "params": dict(params),
        "inputs": list(inputs),
        "loras": list(loras),
        "scheduler": {name: repr(value) for name, value in sorted(scheduler.items())},
        "dtypes": dict(dtypes),
        # Where weights lie decides the order of some sums.
        "profile": profile,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
