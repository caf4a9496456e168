"""What a run must have in common with the one whose snapshot it goes on from; whatever differs, it starts over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import diffusers
import pytest
import tiny
import torch
import transformers
from cases import CASES, WAN
from workshop import STEPS, Workshop, equal

import framewright
from framewright import catalogue
from framewright.catalogue.computing import Transformer
from framewright.catalogue.diffusion import Repo, Scheduler
from framewright.catalogue.row import ModelRow
from workers.diffusion import binding

PICTURED = next(case for case in CASES if case.tiny == "wan22-i2v-a14b")
OTHER: dict[str, dict[str, Any]] = {
    "seed": {"seed": 8},
    "prompt": {"prompt": "a dog dancing"},
    "size": {"size": "32x16"},
    "frames": {"frames": 5},
    "steps": {"steps": 5},
    "guidance": {"guidance": 4.0},
    "flow shift": {"flow_shift": 2.0},
    "cache": {"cache": "pyramid"},
}
ROW: dict[str, dict[str, Any]] = {
    "tokens of a prompt": {"max_tokens": 64},
    "negative prompt": {"negative": "noise"},
    "what every call is told": {"call": MappingProxyType({"attention_kwargs": None})},
    "scheduler": {"scheduler": Scheduler(kind="FlowMatchEulerDiscreteScheduler")},
    "dtypes": {"dtypes": MappingProxyType({"default": "bfloat16"})},
    "pipeline": {"pipelines": MappingProxyType({"t2v": "SkyReelsV2Pipeline", "v2v": "WanVideoToVideoPipeline"})},
    "base": {"base": Repo(id="somebody/else")},
}


@pytest.mark.parametrize("what", OTHER)
def test_a_run_of_anything_else_starts_from_the_beginning(workshop: Workshop, what: str) -> None:
    workshop.install(WAN)
    made = workshop.run(WAN)
    other = workshop.resumed(WAN, made, 3, **OTHER[what])
    assert other.meta["resumed_from_step"] == 0
    assert equal(other.frames, workshop.run(WAN, **OTHER[what]).frames)


def bound_to(row: ModelRow, **others: Any) -> str:
    facts = row.diffusion
    assert facts is not None
    asked: dict[str, Any] = {
        "model": row.name,
        "facts": facts,
        "revisions": {"repo": "1" * 40, "base": "2" * 40, "upscale": "3" * 40},
        "task": "t2v",
        "pipeline": facts.pipelines["t2v"],
        "params": {"steps": STEPS},
        "inputs": [],
        "loras": [],
        "scheduler": {},
        "profile": "host",
        "device": torch.device("cpu"),
    }
    return binding.digest(**{**asked, **others})


@pytest.mark.parametrize("what", ROW)
def test_a_run_of_a_row_that_has_changed_starts_from_the_beginning(what: str) -> None:
    row = catalogue.named(WAN.like)
    facts = row.diffusion
    assert facts is not None
    assert bound_to(row, facts=replace(facts, **ROW[what])) != bound_to(row)
    # Where the weights lie, what else would fit, and how long it may take changes no bit.
    slower = Transformer(parameters=1.0, layers=1, width=1)
    elsewhere = replace(facts, folder=Path("/elsewhere"), profiles=(), denoiser=slower)
    assert bound_to(row, facts=elsewhere) == bound_to(row)


@pytest.mark.parametrize("part", ["repo", "base", "upscale"])
def test_a_run_of_weights_of_another_commit_starts_from_the_beginning(part: str) -> None:
    row = catalogue.named(WAN.like)
    revisions = {"repo": "1" * 40, "base": "2" * 40, "upscale": "3" * 40}
    assert bound_to(row, revisions={**revisions, part: "4" * 40}) != bound_to(row)


@pytest.mark.parametrize("library", [torch, diffusers, transformers, framewright])
def test_a_run_of_another_version_of_a_library_starts_from_the_beginning(
    monkeypatch: pytest.MonkeyPatch, library: Any
) -> None:
    before = bound_to(catalogue.named(WAN.like))
    monkeypatch.setattr(library, "__version__", "99.0")
    assert bound_to(catalogue.named(WAN.like)) != before


def test_a_row_changed_between_two_attempts_makes_the_second_start_over(workshop: Workshop) -> None:
    workshop.install(WAN)
    made = workshop.run(WAN)
    changed_row = replace(WAN, max_tokens=64)
    workshop.install(changed_row)
    other = workshop.resumed(changed_row, made, 3)
    assert other.meta["resumed_from_step"] == 0
    assert equal(other.frames, workshop.stock(changed_row))


def test_another_picture_starts_from_the_beginning(workshop: Workshop) -> None:
    workshop.install(PICTURED)
    made = workshop.run(PICTURED)
    tiny.picture(16, 16, seed=5).save(workshop.folder / "picture0-16x16.png")
    assert workshop.resumed(PICTURED, made, 3).meta["resumed_from_step"] == 0


def test_a_damaged_snapshot_starts_from_the_beginning(workshop: Workshop) -> None:
    workshop.install(WAN)
    made = workshop.run(WAN)
    path = workshop.kept(made, 3)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    resumed = workshop.resumed(WAN, made, 3)
    assert resumed.meta["resumed_from_step"] == 0
    assert equal(resumed.frames, made.frames)
