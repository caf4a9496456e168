"""A weights file is what it says to the last byte, or it is refused before any library reads it."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tiny_model import safetensors, with_header

from framewright.errors import WeightsRefused
from framewright.models.headers import MOST_HEADER, read_header, read_index

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def file(tmp_path: Path, body: bytes, name: str = "model.safetensors") -> Path:
    path = tmp_path / name
    path.write_bytes(body)
    return path


def test_a_sound_file_tells_its_tensors_and_bytes(tmp_path: Path) -> None:
    body = safetensors(
        {"a": ("BF16", (2, 3), bytes(12)), "b": ("F8_E4M3", (5,), bytes(5)), "c": ("F32", (), bytes(4))}, {"k": "v"}
    )
    header = read_header(file(tmp_path, body))
    assert header.bytes_by_dtype == {"BF16": 12, "F8_E4M3": 5, "F32": 4}
    assert (header.tensors["a"].shape, dict(header.metadata), header.data_bytes) == ((2, 3), {"k": "v"}, 21)


def test_what_the_library_itself_writes_is_sound(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    save = pytest.importorskip("safetensors.torch").save_file
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.float8_e5m2)
    tensors = {str(kind): torch.zeros(3, 5, dtype=kind) for kind in kinds} | {"none": torch.zeros(0, 4)}
    save(tensors, str(tmp_path / "real.safetensors"), metadata={"format": "pt"})
    header = read_header(tmp_path / "real.safetensors")
    assert header.tensors.keys() == tensors.keys()
    assert header.data_bytes == sum(one.numel() * one.element_size() for one in tensors.values())


def test_a_length_that_looks_like_a_pickle_is_no_pickle(tmp_path: Path) -> None:
    """The length 0x280 is the bytes 80 02, with which pickles of protocol 2 begin."""
    text = json.dumps({"a": F32}).encode()
    assert read_header(file(tmp_path, with_header(text.ljust(0x280), bytes(8)))).data_bytes == 8


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "8 of its header's length"),
        (b"\x01\x00", "8 of its header's length"),
        ((1 << 60).to_bytes(8, "little") + b"{}", "claims 1152921504606846976 bytes"),
        ((1 << 63).to_bytes(8, "little") + b"{}", "claims"),
        ((3).to_bytes(8, "little") + b"{}", "claims 3 bytes, more than the file"),
        (pickle.dumps({"a": [1] * 100}), "a pickle"),
        (b"GGUF\x03\x00\x00\x00" + bytes(64), "a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer"),
        (with_header(b"[]"), "no JSON object"),
        (with_header(b"{"), "no valid JSON"),
        (with_header(b'{"a":\xff}'), "no valid JSON"),
        (with_header(b'{"a":' + b"[" * 200_000), "nested too deeply"),
        (with_header(b'{"a": NaN}'), "NaN"),
        (with_header(b'{"a": %s}' % (b"9" * 5000)), "no valid JSON"),
        (with_header(b'{"a": 1, "a": 1}'), "'a' is there twice"),
        (with_header(b'{"a": {"dtype": "F32", "dtype": "F32", "shape": [], "data_offsets": [0, 0]}}'), "twice"),
        (with_header({"__metadata__": {"k": 1}}), "texts only"),
        (with_header({"__metadata__": []}), "texts only"),
        (with_header({"a": 1}), "must have dtype"),
        (with_header({"a": F32 | {"code": "x"}}, bytes(8)), "nothing else"),
        (with_header({"a": F32 | {"dtype": "OBJECT"}}, bytes(8)), "unknown dtype"),
        (with_header({"a": F32 | {"dtype": ["F32"]}}, bytes(8)), "unknown dtype"),
        (with_header({"a": F32 | {"shape": [-2]}}, bytes(8)), "no list of up to 64 whole numbers"),
        (with_header({"a": F32 | {"shape": [2.0]}}, bytes(8)), "no list of up to 64 whole numbers"),
        (with_header({"a": F32 | {"shape": [True, 2]}}, bytes(8)), "no list of up to 64 whole numbers"),
        (with_header({"a": F32 | {"shape": [1] * 65 + [2]}}, bytes(8)), "no list of up to 64 whole numbers"),
        (with_header({"a": F32 | {"shape": [1 << 63, 0]}}), "no list of up to 64 whole numbers"),
        (with_header({"a": F32 | {"shape": [3]}}, bytes(8)), "ask for 12"),
        (with_header({"a": F32 | {"shape": [1 << 62, 4]}}, bytes(8)), "ask for"),
        (with_header({"a": F32 | {"data_offsets": [8, 0]}}, bytes(8)), "no range"),
        (with_header({"a": F32 | {"data_offsets": [0, 8, 8]}}, bytes(8)), "no range"),
        (with_header({"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}}, bytes(1)), "ask for 1.5"),
        (with_header({"a": F32}, bytes(4)), "end at byte 8 of data, and there are 4"),
        (with_header({"a": F32}, bytes(9)), "there are 9"),
        (with_header({"a": F32, "b": F32}, bytes(8)), "overlaps"),
        (with_header({"a": F32, "b": F32 | {"data_offsets": [4, 12]}}, bytes(12)), "overlaps"),
        (with_header({"a": F32, "b": F32 | {"data_offsets": [9, 17]}}, bytes(17)), "gap"),
    ],
)  # fmt: skip
def test_a_file_that_lies_is_refused_with_what_is_wrong(tmp_path: Path, body: bytes, why: str) -> None:
    with pytest.raises(WeightsRefused) as refused:
        read_header(file(tmp_path, body))
    assert why in refused.value.detail
    assert "model.safetensors" in refused.value.detail
    assert len(refused.value.detail) < 400 + len(str(tmp_path))


def test_a_checkpoint_of_torch_is_refused_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    with pytest.raises(WeightsRefused, match="zip archive"):
        read_header(path)


def test_a_header_over_the_cap_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as sparse:
        sparse.write((MOST_HEADER + 1).to_bytes(8, "little") + b"{")
        sparse.truncate(MOST_HEADER * 2)
    with pytest.raises(WeightsRefused, match="that are allowed"):
        read_header(path)


@pytest.mark.parametrize("kind", ["link", "folder", "fifo", "nothing"])
def test_only_the_file_itself_is_read(tmp_path: Path, kind: str) -> None:
    real = file(tmp_path, safetensors({"a": ("F32", (2,), bytes(8))}), "real.safetensors")
    path = tmp_path / "model.safetensors"
    if kind == "link":
        path.symlink_to(real)
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(WeightsRefused):
        read_header(path)


def indexed(tmp_path: Path, weight_map: Any) -> Path:
    file(tmp_path, safetensors({"a": ("F32", (2,), bytes(8))}), "one.safetensors")
    file(tmp_path, safetensors({"b": ("F32", (2,), bytes(8))}), "two.safetensors")
    return file(tmp_path, json.dumps({"weight_map": weight_map}).encode(), "model.safetensors.index.json")


def test_an_index_tells_its_shards(tmp_path: Path) -> None:
    path = indexed(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    assert read_index(path) == {"one.safetensors": ("a",), "two.safetensors": ("b",)}


@pytest.mark.parametrize(
    ("weight_map", "why"),
    [
        ({"a": "three.safetensors"}, "shard three.safetensors is not there"),
        ({"a": "two.safetensors"}, "lacks the tensor 'a'"),
        ({"a": "../one.safetensors"}, "not the name"),
        ({"a": "/etc/one.safetensors"}, "not the name"),
        ({"a": "one.bin"}, "not the name"),
        ({"a": 1}, "not the name"),
        ({}, "no weight_map"),
        ([], "no weight_map"),
    ],
)
def test_an_index_that_leads_astray_is_refused(tmp_path: Path, weight_map: Any, why: str) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(WeightsRefused, match=why):
        read_index(indexed(tmp_path / "in", weight_map))
