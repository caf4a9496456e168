"""Rows of a catalogue whose weights nobody should run: copies of a tiny model, each with one thing wrong."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from framewright.models.manifest import PARTS, File, Manifest, Source

ENDLESS = (1 << 60).to_bytes(8, "little") + b"{}"
PICKLE = pickle.dumps({"weights": [1.0]})
_WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
_REPO = "nobody/half-pulled"


def nameless(folder: Path) -> None:
    """Weights of which none is a number."""
    tensors = load_file(folder / _WEIGHTS)
    save_file({name: torch.full_like(one, float("nan")) for name, one in tensors.items()}, folder / _WEIGHTS)


def endless(folder: Path) -> None:
    (folder / _WEIGHTS).write_bytes(ENDLESS)


def pickled(folder: Path) -> None:
    (folder / _WEIGHTS).write_bytes(PICKLE)


def shardless(folder: Path) -> None:
    """An index that names a shard which is not there."""
    index = {"weight_map": {"proj_out.weight": "diffusion_pytorch_model-00001-of-00002.safetensors"}}
    (folder / f"{_WEIGHTS}.index.json").write_text(json.dumps(index))


def half_pulled(folder: Path) -> None:
    """What a pull leaves that is broken off: a manifest of the whole, and a part of one file."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    manifest = Manifest(
        model=folder.name,
        hub="https://huggingface.co",
        sources={"repo": Source(repo=_REPO, revision="0" * 40)},
        files=tuple(
            File(path=(name := str(path.relative_to(folder))), name=name, of="repo", size=path.stat().st_size)
            for path in files
        ),
    )
    manifest.write(folder)
    (folder / PARTS).mkdir()
    (folder / PARTS / "0").write_bytes((folder / _WEIGHTS).read_bytes()[:1000])
    (folder / _WEIGHTS).unlink()


def untouched(_: Path) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Spoilt:
    """`code` is what a job for it waits with, and `says` what its sentence contains, beside what `mends` it."""

    spoil: Callable[[Path], None]
    code: str
    says: str
    mends: str
    toml: str = ""


_OWN = "put right what it names"
ROWS: Mapping[str, Spoilt] = {
    "endless": Spoilt(endless, "model_not_ready", "claims 1152921504606846976 bytes", _OWN),
    "pickled": Spoilt(pickled, "model_not_ready", "a pickle", _OWN),
    "shardless": Spoilt(shardless, "model_not_ready", "00001-of-00002.safetensors is not there", _OWN),
    "half-pulled": Spoilt(
        half_pulled,
        "model_not_ready",
        "half pulled",
        "run: framewright models pull half-pulled",
        f'repo = "{_REPO}"\n',
    ),
    "bound": Spoilt(
        untouched,
        "licence_not_accepted",
        "the licence of bound (Tiny Licence) was not accepted here",
        "name the model in FRAMEWRIGHT_ACCEPTED_LICENCES",
        'licence = { name = "Tiny Licence", accept = true }\n',
    ),
}


def entries(whole: Path, own: Path, pulled: Path) -> str:
    """Writes the copies of `whole` below `own`, or `pulled` for what came from a hub; their rows, and `nameless`."""
    made = [_entry("nameless", nameless, whole, own / "nameless")]
    for name, row in ROWS.items():
        made.append(_entry(name, row.spoil, whole, (pulled if "repo" in row.toml else own) / name, row.toml))
    return "\n".join(made)


def _entry(name: str, spoil: Callable[[Path], None], whole: Path, folder: Path, toml: str = "") -> str:
    shutil.copytree(whole, folder)
    spoil(folder)
    where = "" if "repo" in toml else f'path = "{folder}"\n'
    free = "" if "licence" in toml else 'licence = { name = "none" }\n'
    size = 'size = { multiple = 16, least = 16, most = 256, default = "16x16" }\n'
    head = f'[[model]]\nname = "{name}"\nlike = "wan-2.1-t2v-1.3b"\ndtype = "float32"\nvram_mb = 0\n'
    return f"{head}{where}{free}{size}{toml}"
