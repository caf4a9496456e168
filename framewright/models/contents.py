"""What a folder of weights may hold: safe names, safetensors with their configuration, and pipelines without code."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from framewright.errors import WeightsRefused
from framewright.models.headers import read_header, read_index, read_object

TAKEN = frozenset({".safetensors", ".json", ".txt", ".model", ".jinja"})
"""The only kinds of files that are ever fetched."""
CODE = frozenset(
    {".bin", ".pth", ".pt", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".npy", ".npz", ".h5", ".keras", ".msgpack"}
    | {".onnx", ".engine", ".gguf", ".py", ".pyc", ".pyd", ".so", ".dylib", ".dll", ".pt2", ".pte"}
)
"""Files that run code, or that a loader might take in the place of safetensors: not even kept beside them."""
INDEX = ".safetensors.index.json"
PIPELINE = "model_index.json"
# Libraries that components come from; the lower ones are pipeline modules of diffusers with components of their own.
_LIBRARIES = frozenset({"diffusers", "transformers", "ltx", "ltx2", "stable_diffusion"})
_CLASS = re.compile(r"[A-Z][A-Za-z0-9_]{0,127}")
_COMPONENT = re.compile(r"[a-z][a-z0-9_]{0,63}")
_NAME = re.compile(r"[A-Za-z0-9_(\[][A-Za-z0-9_.+()\[\]=,@ -]{0,127}")


def safe_path(path: str) -> PurePosixPath:
    """The path of a file inside a model's folder, as a hub or a manifest names it, if it stays inside everywhere."""
    parts = path.split("/")
    if len(path) > 512 or len(parts) > 8 or not all(map(_NAME.fullmatch, parts)):
        raise WeightsRefused(f"{path[:200]!r} is no name that a file of a model may have")
    return PurePosixPath(path)


def distinct(paths: Iterable[str]) -> None:
    """Refuses names that one disk would take for the same, and a file that another one needs as its folder."""
    seen: dict[str, str] = {}
    for path in paths:
        if other := seen.get(path.casefold()):
            raise WeightsRefused(f"{other!r} and {path!r} would be one file")
        seen[path.casefold()] = path
    for folded, path in seen.items():
        for parent in PurePosixPath(folded).parents:
            if str(parent) in seen:
                raise WeightsRefused(f"{seen[str(parent)]!r} is a file, and the folder of {path!r}")


def walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every file below, as a path with `/`, in order; hidden ones left out. A link or device is refused."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_symlink():
            raise WeightsRefused(f"{entry.path} is a link; weights are kept as files")
        if entry.is_dir(follow_symlinks=False):
            for path, facts in walk(Path(entry.path)):
                yield f"{entry.name}/{path}", facts
        elif entry.is_file(follow_symlinks=False):
            yield entry.name, entry.stat(follow_symlinks=False)
        else:
            raise WeightsRefused(f"{entry.path} is neither a file nor a folder")


def check(folder: Path) -> None:
    """Refuses a folder that holds code, a malformed file, an index without its shards, or a pipeline not of diffusers.

    Reads headers, not weights: a check of gigabytes takes milliseconds.
    """
    found = [path for path, _ in walk(folder)]
    for path in found:
        if PurePosixPath(path).suffix.lower() in CODE:
            raise WeightsRefused(f"{folder / path} may run code or replace weights; only safetensors are kept here")
    if not any(path.endswith(".safetensors") for path in found):
        raise WeightsRefused(f"{folder} holds no safetensors file")
    pipelines = [path for path in found if PurePosixPath(path).name == PIPELINE]
    if not pipelines:
        raise WeightsRefused(f"{folder} holds no {PIPELINE}, so it is no diffusers pipeline")
    for path in pipelines:
        check_pipeline(folder / path)
    for path in found:
        if path.endswith(INDEX):
            read_index(folder / path)
        elif path.endswith(".safetensors"):
            read_header(folder / path)


def check_pipeline(path: Path) -> dict[str, Any]:
    """A model_index.json that names components of diffusers and transformers, and nothing else that would be loaded."""
    document = read_object(path)
    pipeline = document.get("_class_name")
    if not isinstance(pipeline, str) or not _CLASS.fullmatch(pipeline):
        raise WeightsRefused(f"{path} is refused: _class_name must be the name of a pipeline of diffusers")
    for name, value in document.items():
        if name.startswith("_") or not isinstance(value, list):
            if isinstance(value, dict):
                raise WeightsRefused(f"{path} is refused: {name!r} is an object")
            continue
        if value == [None, None]:
            continue
        if len(value) != 2 or not all(isinstance(part, str) for part in value):
            raise WeightsRefused(f"{path} is refused: {name!r} must be a library and a class")
        library, kind = value
        if not _COMPONENT.fullmatch(name) or library not in _LIBRARIES or not _CLASS.fullmatch(kind):
            raise WeightsRefused(
                f"{path} is refused: {name[:64]!r} comes from {library[:64]!r}; only classes of diffusers and "
                "transformers are loaded"
            )
    return document
