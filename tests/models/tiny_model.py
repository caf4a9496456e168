"""A model of a few kilobytes: its row, its repository, and safetensors files made by hand, sound or broken."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from framewright.catalogue import camera_move
from framewright.catalogue.computing import Transformer
from framewright.catalogue.diffusion import Diffusion, Latents, Profile, Repo, Scheduler, Steps
from framewright.catalogue.row import Licence, ModelRow, Needs
from framewright.models.manifest import NAME

REPO = "studio/tiny"
FREE = Licence("Apache-2.0", url="https://example.org/apache")
BOUND = Licence("Tiny Licence 1.0", url="https://example.org/tiny", commercial=False, note="not in Utopia", accept=True)


def row(
    *, name: str = "tiny", licence: Licence = FREE, repo: Repo | None = None, base: Repo | None = None, **facts: Any
) -> ModelRow:
    """A row whose weights come from `repo`."""
    diffusion = Diffusion(
        family="ltx",
        pipelines={"t2v": "LTXPipeline"},
        slots={"t2v": ()},
        load_as="t2v",
        repo=repo or Repo(id=REPO),
        base=base,
        fps=Fraction(24),
        steps=Steps(default=4),
        scheduler=Scheduler(kind="FlowMatchEulerDiscreteScheduler"),
        latents=Latents(layout="packed", channels=4, spatial=8, temporal=4),
        denoiser=Transformer(parameters=500, layers=1, width=8),
        profiles=(Profile(name="whole", vram_mb=24_000), Profile(name="small", vram_mb=8_000, offload="group")),
        **facts,
    )
    least = Needs(vram_mb=min(profile.vram_mb for profile in diffusion.profiles))
    return replace(
        camera_move.ROW,
        name=name,
        title="A tiny model",
        licence=licence,
        diffusion=diffusion,
        needs=least,
        default_for=(),
    )


def safetensors(
    tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]], metadata: dict[str, Any] | None = None
) -> bytes:
    """A sound file of the tensors given as (dtype, shape, bytes)."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata is not None else {}
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return with_header(header, data)


def with_header(header: object, data: bytes = b"") -> bytes:
    """A file with any header: JSON of an object, or the text itself."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def weights(size: int, seed: int) -> bytes:
    """A file with one BF16 tensor of `size` bytes."""
    return safetensors({"w": ("BF16", (size // 2,), random.Random(seed).randbytes(size))})


def repository(size: int = 1000) -> dict[str, bytes]:
    """What a repository of diffusers holds, with what is not wanted: pickles, code, pictures and another precision."""
    index = {
        "_class_name": "LTXPipeline",
        "_diffusers_version": "0.42.1",
        "transformer": ["diffusers", "LTXVideoTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLLTXVideo"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "safety_checker": [None, None],
        "boundary_ratio": 0.5,
    }
    shards = [weights(size, 1), safetensors({"v": ("F32", (2, 3), bytes(24))})]
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    mapped = {"metadata": {"total_size": 1}, "weight_map": {"w": names[0], "v": names[1]}}
    return {
        "model_index.json": json.dumps(index).encode(),
        "transformer/config.json": b'{"_class_name": "LTXVideoTransformer3DModel"}',
        "transformer/diffusion_pytorch_model.safetensors": weights(size, 2),
        "transformer/diffusion_pytorch_model.fp16.safetensors": weights(size, 3),
        "vae/diffusion_pytorch_model.safetensors": weights(size, 4),
        f"text_encoder/{names[0]}": shards[0],
        f"text_encoder/{names[1]}": shards[1],
        "text_encoder/model.safetensors.index.json": json.dumps(mapped).encode(),
        "tokenizer/empty.txt": b"",
        "transformer/diffusion_pytorch_model.bin": b"\x80\x04pickle",
        "pipeline.py": b"raise SystemExit",
        ".gitattributes": b"*",
        "README.md": b"# Tiny",
    }


TAKEN = {
    "model_index.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model-00001-of-00002.safetensors",
    "text_encoder/model-00002-of-00002.safetensors",
    "text_encoder/model.safetensors.index.json",
    "tokenizer/empty.txt",
}


def put(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, body in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    return folder


def kept() -> dict[str, bytes]:
    """The files of `repository` that are taken."""
    return {name: body for name, body in repository().items() if name in TAKEN}


def there(folder: Path) -> dict[str, bytes]:
    """Every file below a model's folder, the manifest apart."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name != NAME}
