"""What a worker offers of the models that lie on its disk, and what it says of those that it cannot run."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from framewright import catalogue
from framewright.models import home
from framewright.settings import Settings
from workers.shelf import Shelf

ENGINES = ["camera-move", "diffusion"]
WEIGHTS = """
[[model]]
name = "small"
like = "wan-2.1-t2v-1.3b"
path = "small"
vram_mb = 24000
licence = { name = "none" }

[[model]]
name = "elsewhere"
like = "wan-2.1-t2v-1.3b"
path = "nowhere"
"""


@pytest.fixture
def shelf(make_settings, tmp_path, monkeypatch):
    """A shelf of the queues `gpu` and `cpu`, with one whole model of an operator's own and room for others."""
    (tmp_path / "small").mkdir()
    file = tmp_path / "models.toml"
    file.write_text(WEIGHTS)
    # What a folder of weights must hold is for the tests of models.
    monkeypatch.setattr(home, "check", lambda _: None)
    settings: Settings = make_settings(queues=("gpu", "cpu"), catalogue=file, models_dir=tmp_path / "pulled")
    catalogue.install(file)
    yield Shelf(settings)
    catalogue.install(None)


def test_a_model_is_offered_where_its_weights_lie_and_its_gpu_is_large_enough(shelf):
    facts = {"engines": ENGINES, "vram_mb": 24_564, "memory_mb": 64_000}
    assert shelf.offered(facts) == ("camera-move", "diffusion:small")
    assert shelf.refused(facts) == {}


def test_a_gpu_that_is_too_small_is_said_to_be(shelf):
    facts = {"engines": ENGINES, "vram_mb": 16_000, "memory_mb": 64_000}
    assert shelf.offered(facts) == ("camera-move",)
    assert shelf.refused(facts) == {"small": "it needs at least 24 GB of GPU memory, and this worker has 16 GB"}


def test_half_a_pull_and_a_licence_are_named_with_the_command_and_without_the_path(shelf, tmp_path):
    half = tmp_path / "pulled" / "svd"
    half.mkdir(parents=True)
    (half / "model_index.json").write_text("{}")
    facts = {"engines": ENGINES, "vram_mb": 80_000, "memory_mb": 64_000}
    said = shelf.refused(facts)["svd"]
    assert "framewright models pull svd" in said
    assert str(tmp_path) not in said


def test_without_a_probe_and_without_the_engine_nothing_is_offered(shelf):
    assert shelf.offered({}) == ()
    assert shelf.offered({"engines": ["camera-move"], "memory_mb": 64_000}) == ("camera-move",)
    assert shelf.refused({"engines": ["camera-move"], "memory_mb": 64_000}) == {}


def test_a_disk_that_fails_is_no_reason_to_offer(shelf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def broken(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error", str(tmp_path))

    monkeypatch.setattr(home, "check", broken)
    facts = {"engines": ENGINES, "vram_mb": 80_000, "memory_mb": 64_000}
    assert shelf.offered(facts) == ("camera-move",)
    assert shelf.refused(facts)["small"] == "its weights cannot be read: Input/output error"
