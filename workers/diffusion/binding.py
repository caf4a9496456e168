"""What a snapshot is bound to: a run that differs in any of it must start from the beginning."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Final

import diffusers
import torch
import transformers

import framewright
from framewright.catalogue.diffusion import Diffusion

VERSION: Final = 2
"""Of what a snapshot holds; a newer one starts old runs from the beginning."""
_ELSEWHERE: Final = frozenset({"folder", "profiles", "denoiser"})
"""Facts of a row that change no run: where its weights lie, what else would fit on other GPUs, what times rest on."""


def digest(
    *,
    model: str,
    facts: Diffusion,
    revisions: Mapping[str, str],
    task: str,
    pipeline: str,
    params: Mapping[str, Any],
    inputs: Sequence[str],
    loras: Sequence[str],
    scheduler: Mapping[str, Any],
    profile: str,
    device: torch.device,
) -> str:
    """SHA-256 (hex) over everything that decides the bits of a run.

    `revisions` are those of all repositories that weights came from, `inputs` and `loras` digests of files.
    """
    bound = {
        "version": VERSION,
        "model": model,
        "facts": {one.name: _plain(getattr(facts, one.name)) for one in fields(facts) if one.name not in _ELSEWHERE},
        "revisions": dict(revisions),
        "task": task,
        "pipeline": pipeline,
        "params": dict(params),
        "inputs": list(inputs),
        "loras": list(loras),
        "scheduler": {name: repr(value) for name, value in sorted(scheduler.items())},
        # Where weights lie decides the order of some sums.
        "profile": profile,
        "device": device_name(device),
        "versions": versions(),
    }
    return hashlib.sha256(json.dumps(bound, sort_keys=True, default=str).encode()).hexdigest()


def device_name(device: torch.device) -> str:
    """The GPU's name, or what else it is."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def versions() -> dict[str, str]:
    """Of the libraries that a clip is made by."""
    return {
        "framewright": framewright.__version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }


def _plain(fact: Any) -> Any:
    """A fact as JSON knows it, the same in every process."""
    if is_dataclass(fact):
        return {one.name: _plain(getattr(fact, one.name)) for one in fields(fact)}
    if isinstance(fact, Mapping):
        return {str(name): _plain(value) for name, value in fact.items()}
    if isinstance(fact, (tuple, list)):
        return [_plain(value) for value in fact]
    return repr(fact)
