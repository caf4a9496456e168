"""Complete model repositories of random weights, a few hundred kilobytes each: real networks at toy size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from . import hunyuan, lightricks, others, wan
from .facts import Tiny
from .parts import film, picture

__all__ = ["FAMILIES", "Tiny", "build", "film", "load", "picture", "seeded"]

FAMILIES: Mapping[str, Tiny] = {**lightricks.FAMILIES, **wan.FAMILIES, **hunyuan.FAMILIES, **others.FAMILIES}


# Two threads are slower than one on networks of this size, and nobody reads the bars.
torch.set_num_threads(1)
transformers.logging.disable_progress_bar()
diffusers.utils.logging.disable_progress_bar()


def build(name: str, folder: Path) -> Path:
    """Writes the model so called into `folder`, as a hub would hold it; two builds are equal to the byte."""
    FAMILIES[name].make().save_pretrained(folder, safe_serialization=True)
    return folder


def load(folder: Path, **kwargs: Any) -> Any:
    """The pipeline that lies in `folder`, quiet, from nothing but that folder."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True, use_safetensors=True, **kwargs)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
