"""What a worker offers of the models that lie on its disk, and what it says of those that it cannot run."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from framewright import catalogue
from framewright.models import home
from framewright.settings import Settings
from workers.shelf import Refusal, Shelf

ENGINES = ["camera-move", "diffusion"]
WEIGHTS = """
[[model]]
name = "small"
like = "wan-2.1-t2v-1.3b"
path = "small"
vram_mb = 24000
licence = { name = "none" }

[[model]]
name = "bound"
like = "hunyuan-video"
path = "bound"

[[model]]
name = "elsewhere"
like = "wan-2.1-t2v-1.3b"
path = "nowhere"
"""


@pytest.fixture
def shelf(make_settings, tmp_path, monkeypatch):
    """A shelf of the queues `gpu` and `cpu`, with one whole model of an operator's own and room for others."""
    (tmp_path / "small").mkdir()
    (tmp_path / "bound").mkdir()
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
    assert set(shelf.refused(facts)) == {"bound"}


def test_a_gpu_that_is_too_small_is_said_to_be(shelf):
    facts = {"engines": ENGINES, "vram_mb": 16_000, "memory_mb": 64_000}
    assert shelf.offered(facts) == ("camera-move",)
    too_small = "small needs at least 24 GB of GPU memory, and this worker has 16 GB"
    assert shelf.refused(facts)["small"] == Refusal("insufficient_vram", too_small)


def test_a_card_counts_as_the_class_it_is_sold_as(shelf):
    l4 = {"engines": ENGINES, "vram_mb": 23_659, "memory_mb": 64_000}
    assert shelf.offered(l4) == ("camera-move", "diffusion:small")


def test_half_a_pull_and_a_licence_are_named_with_the_command_and_without_the_path(shelf, tmp_path):
    half = tmp_path / "pulled" / "svd"
    half.mkdir(parents=True)
    (half / "model_index.json").write_text("{}")
    facts = {"engines": ENGINES, "vram_mb": 80_000, "memory_mb": 64_000}
    said = shelf.refused(facts)["svd"]
    assert said.code == "model_not_ready"
    assert said.message.startswith("svd is not ready: ")
    assert "framewright models pull svd" in said.message
    assert str(tmp_path) not in said.message


def test_a_licence_that_weights_of_ones_own_inherit_is_asked_for(shelf):
    facts = {"engines": ENGINES, "vram_mb": 80_000, "memory_mb": 64_000}
    assert "diffusion:bound" not in shelf.offered(facts)
    said = shelf.refused(facts)["bound"]
    assert said.code == "licence_not_accepted"
    assert "FRAMEWRIGHT_ACCEPTED_LICENCES" in said.message


def test_what_a_runner_could_not_load_is_offered_no_further_although_all_looks_well(shelf):
    facts = {"engines": ENGINES, "vram_mb": 80_000, "memory_mb": 64_000}
    assert "diffusion:small" in shelf.offered(facts)
    told = Refusal("weights_refused", "the weights of small are refused: a header is torn")
    shelf.refuse("small", told)
    assert shelf.offered(facts) == ("camera-move",)
    assert shelf.refused(facts)["small"] == told


def test_a_runner_is_believed_until_a_file_of_the_model_changes(shelf, tmp_path, monkeypatch):
    facts = {"engines": ENGINES, "vram_mb": 80_000, "memory_mb": 64_000}
    (weights := tmp_path / "small" / "vae.json").write_text("{}")
    monkeypatch.setattr("workers.shelf.LOOK_S", 0.0)
    now = 0.0
    monkeypatch.setattr("workers.shelf.time.monotonic", lambda: now)
    told = Refusal("weights_refused", "the weights of small are refused: a header is torn")
    shelf.refuse("small", told)
    now = 3500.0
    assert shelf.refused(facts)["small"] == told
    os.utime(weights, ns=(0, 0))
    assert "diffusion:small" in shelf.offered(facts)
    shelf.refuse("small", told)
    assert shelf.refused(facts)["small"] == told
    now += 3601.0
    assert "diffusion:small" in shelf.offered(facts)


def test_that_the_gpu_is_too_small_for_a_model_is_believed_for_good(shelf, tmp_path, monkeypatch):
    facts = {"engines": ENGINES, "vram_mb": 80_000, "memory_mb": 64_000}
    now = 0.0
    monkeypatch.setattr("workers.shelf.LOOK_S", 0.0)
    monkeypatch.setattr("workers.shelf.time.monotonic", lambda: now)
    told = Refusal("insufficient_vram", "small needs at least 90 GB of GPU memory, and this worker has 80 GB")
    shelf.refuse("small", told)
    (tmp_path / "small").rmdir()
    assert "small" not in shelf.refused(facts)
    (tmp_path / "small").mkdir()
    now = 1e9
    assert shelf.refused(facts)["small"] == told


def test_no_model_is_offered_while_the_gpus_are_not_known(shelf):
    facts = {"engines": ENGINES, "memory_mb": 64_000}
    assert shelf.offered(facts) == ("camera-move",)
    said = shelf.refused(facts)["small"]
    assert said.code == "model_not_ready"
    assert "the GPU driver of this worker does not say which GPUs there are" in said.message


def test_what_was_removed_a_moment_ago_is_noticed_when_a_runner_says_so(shelf, tmp_path):
    facts = {"engines": ENGINES, "vram_mb": 80_000, "memory_mb": 64_000}
    assert "diffusion:small" in shelf.offered(facts)
    (tmp_path / "small").rmdir()
    assert "diffusion:small" in shelf.offered(facts)
    shelf.refuse("small", Refusal("model_not_ready", "gone"))
    assert "diffusion:small" not in shelf.offered(facts)
    assert "small" not in shelf.refused(facts)
    # It comes back with the next look after that: nothing is held against it.
    (tmp_path / "small").mkdir()
    shelf.refuse("elsewhere", Refusal("model_not_ready", "gone"))
    assert "diffusion:small" in shelf.offered(facts)


def test_without_a_gpu_it_is_the_weights_as_they_are_loaded_that_must_fit(shelf, tmp_path):
    vae = tmp_path / "small" / "vae"
    vae.mkdir()
    header = json.dumps({"w": {"dtype": "F32", "shape": [1_000_000], "data_offsets": [0, 4_000_000]}}).encode()
    (vae / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4_000_000))
    facts = {"engines": ENGINES, "vram_mb": 0, "memory_mb": 3}
    said = shelf.refused(facts)["small"]
    assert said.code == "insufficient_memory"
    assert "0.0048 GB of memory, and this worker has 0.003 GB" in said.message


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
    refusal = Refusal("model_not_ready", "the weights of small cannot be read: Input/output error")
    assert shelf.refused(facts)["small"] == refusal
