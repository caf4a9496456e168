"""A folder of weights holds nothing that runs, and a pipeline names nothing but classes of the two libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_model import kept, put

from framewright.errors import WeightsRefused
from framewright.models.contents import check, distinct, safe_path


@pytest.mark.parametrize("path", ["model_index.json", "vae/config.json", "a/b/c/model-00001-of-00002.safetensors"])
def test_ordinary_names_are_taken_as_they_are(path: str) -> None:
    assert str(safe_path(path)) == path


@pytest.mark.parametrize(
    "path",
    [
        *("", "/etc/passwd", "../x.json", "a/../x.json", "a//x.json", "a/", "./x.json", ".hidden.json", "a/.x.json"),
        *("C:x.json", "a\nx.json", "a\0x.json", "x\u202e.json", "é.json", "~/x.json", "-rf", "a\\x.json"),
        *("a" * 200, "a/" * 9 + "x.json"),
    ],
)
def test_names_that_could_lead_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(WeightsRefused):
        safe_path(path)


@pytest.mark.parametrize(
    "paths", [("a.json", "A.json"), ("a.json", "a.json"), ("vae", "vae/config.json"), ("VAE", "vae/x/config.json")]
)
def test_names_that_get_in_each_others_way_are_refused(paths: tuple[str, str]) -> None:
    distinct(["a/b.json", "a/c.json", "b.json"])
    with pytest.raises(WeightsRefused):
        distinct(paths)


def test_a_sound_folder_passes(tmp_path: Path) -> None:
    check(put(tmp_path, kept() | {"README.md": b"# Tiny", ".cache/x.bin": b"hidden ones are nobody's"}))


@pytest.mark.parametrize(
    "name", ["vae/pytorch_model.bin", "x.CKPT", "a.pt", "b.pth", "pipeline.py", "vae/lib.so", "c.pkl"]
)
def test_code_and_pickles_are_refused(tmp_path: Path, name: str) -> None:
    put(tmp_path, kept() | {name: b"x"})
    with pytest.raises(WeightsRefused, match="only safetensors are kept"):
        check(tmp_path)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("vae/diffusion_pytorch_model.safetensors", b"\x80\x04pickle and so on"),
        ("text_encoder/model.safetensors.index.json", b'{"weight_map": {"w": "../x.safetensors"}}'),
        ("model_index.json", b"{"),
        ("model_index.json", None),
    ],
)
def test_a_broken_part_is_named(tmp_path: Path, name: str, body: bytes | None) -> None:
    put(tmp_path, kept())
    if body is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(body)
    with pytest.raises(WeightsRefused, match=name.replace(".", r"\.")):
        check(tmp_path)


@pytest.mark.parametrize("way", ["file", "folder"])
def test_links_are_refused(tmp_path: Path, way: str) -> None:
    folder = put(tmp_path / "model", kept())
    inside = folder / ("vae/diffusion_pytorch_model.safetensors" if way == "file" else "vae")
    inside.rename(tmp_path / "elsewhere")
    inside.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WeightsRefused, match="is a link"):
        check(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"vae": ["os", "System"]},
        {"vae": ["subprocess", "Popen"]},
        {"vae": ["pipeline", "Custom"]},
        {"vae": ["diffusers.pipelines", "X"]},
        {"vae": ["diffusers", "loaders.x"]},
        {"vae": ["diffusers", "__class__"]},
        {"vae": ["diffusers"]},
        {"vae": ["diffusers", "A", "B"]},
        {"vae": ["diffusers", 1]},
        {"../vae": ["diffusers", "AutoencoderKL"]},
        {"vae": {"library": "diffusers"}},
        {"_class_name": ["pipeline", "Custom"]},
        {"_class_name": "evil.Pipeline"},
        {"_class_name": None},
    ],
)
def test_a_pipeline_that_would_run_something_else_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    files = kept()
    put(tmp_path, files | {"model_index.json": json.dumps(json.loads(files["model_index.json"]) | change).encode()})
    with pytest.raises(WeightsRefused, match="model_index"):
        check(tmp_path)


@pytest.mark.parametrize("library", ["diffusers", "transformers", "ltx2", "stable_diffusion"])
def test_components_of_the_libraries_pass(tmp_path: Path, library: str) -> None:
    files = kept()
    index = json.loads(files["model_index.json"]) | {"connectors": [library, "LTX2TextConnectors"]}
    check(put(tmp_path, files | {"model_index.json": json.dumps(index).encode()}))
