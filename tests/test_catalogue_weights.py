"""Where rows take their weights from, what their presets choose, and what their summaries leave to other facts."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from framewright import catalogue
from framewright.catalogue.diffusion import Repo
from framewright.catalogue.pins import PINS
from framewright.catalogue.row import ModelRow
from framewright.models.home import repositories

ROWS = [row for row in catalogue.rows() if row.diffusion is not None]
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
REPOSITORIES: list[Repo] = [repo for row in ROWS for repo in repositories(row).values()]
COUNTS = "two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905 - a list of words


def test_rows_of_one_repository_take_the_same_commit() -> None:
    taken = {(repo.id, repo.revision) for repo in REPOSITORIES}
    assert len(taken) == len({repo for repo, _ in taken})
    assert taken == set(PINS.items()), "a pin that no row uses, or a commit that is stated elsewhere"


def test_one_commit_is_not_that_of_two_repositories() -> None:
    commits = [commit for commit in PINS.values() if commit is not None]
    assert len(set(commits)) == len(commits)
    assert all(re.fullmatch(r"[0-9a-f]{40}", commit) for commit in commits)


def test_most_repositories_are_pinned_and_the_others_are_named_in_the_documentation() -> None:
    free = {row.name for row in ROWS if any(repo.revision is None for repo in repositories(row).values())}
    page = (Path(__file__).parent.parent / "docs" / "weights.md").read_text()
    section = page.partition("## Commits")[2].partition("\n## ")[0]
    assert set(re.findall(r"^- `([^`]+)`", section, re.MULTILINE)) == free
    assert len(free) <= 5


def test_no_file_of_its_base_takes_the_place_of_what_is_read_from_one_file() -> None:
    for row in ROWS:
        base = row.diffusion.base if row.diffusion and row.diffusion.repo.single else None
        assert base is None or {"transformer/*.safetensors*", "vae/*.safetensors*"} <= set(base.without)


@every_row
def test_presets_differ_from_each_other_in_what_they_ask_for(row: ModelRow) -> None:
    asked = [dict(preset.params) for preset in row.presets]
    assert all(one not in asked[:place] for place, one in enumerate(asked))
    counts = [params["steps"] for params in asked if "steps" in params]
    assert all(before < after for before, after in pairwise(counts))


@every_row
def test_a_row_without_presets_has_nothing_that_one_could_choose(row: ModelRow) -> None:
    assert row.diffusion is not None
    chosen = row.diffusion.steps.least < row.diffusion.steps.most or row.diffusion.upscale is not None
    assert bool(row.presets) == chosen


@every_row
def test_a_summary_repeats_neither_memory_nor_steps_which_profiles_and_params_state(row: ModelRow) -> None:
    assert not re.search(r"\d\s?[GM]i?B\b", row.summary)
    assert not re.search(rf"(?i)\b(\d+|{'|'.join(COUNTS)})\s(denoise )?steps?\b", row.summary)
