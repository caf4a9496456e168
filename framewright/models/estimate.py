"""How many bytes of weights a model loads, component by component, without loading any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from framewright.catalogue.diffusion import Diffusion
from framewright.catalogue.row import ModelRow
from framewright.models.contents import INDEX, walk
from framewright.models.headers import read_header, read_index
from framewright.models.home import Home, State

_IN_THE_FILE = frozenset({"base/transformer", "base/vae"})
_PLAIN = ("diffusion_pytorch_model.safetensors", "model.safetensors")


@dataclass(frozen=True, slots=True)
class Component:
    """One component as its files hold it: `transformer`, `vae`, ...; of a base repository `base/unet`."""

    name: str
    bytes_by_dtype: Mapping[str, int]

    @property
    def size(self) -> int:
        return sum(self.bytes_by_dtype.values())

    @property
    def numbers(self) -> int:
        """How many numbers the weights are, for dtypes of whole bytes."""
        return sum(size // _WIDTH.get(dtype, 1) for dtype, size in self.bytes_by_dtype.items())


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a model's weights take. `basis` is "disk" where headers were read, else "row": only its own figures.

    `vram_mb` is what the row says that a GPU must have at least.
    """

    basis: Literal["disk", "row"]
    components: tuple[Component, ...]
    vram_mb: int

    @property
    def size(self) -> int:
        return sum(component.size for component in self.components)


_WIDTH: Mapping[str, int] = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}


def estimate(row: ModelRow, home: Home) -> Estimate:
    """From the headers of complete weights on this disk (milliseconds), else from the row."""
    if row.diffusion is None or home.look(row).state is not State.COMPLETE:
        return Estimate("row", (), row.needs.vram_mb)
    return Estimate("disk", loaded(row.diffusion, home.folder(row)), row.needs.vram_mb)


def loaded(facts: Diffusion, folder: Path) -> tuple[Component, ...]:
    """The components of a model that its pipeline loads: of a base, not those that the one file beside it holds."""
    found = components(folder)
    if facts.repo.single is None:
        return found
    return tuple(part for part in found if part.name not in _IN_THE_FILE)


def components(folder: Path) -> tuple[Component, ...]:
    """Every folder below that holds safetensors; `WeightsRefused` for a malformed file."""
    held: dict[str, list[str]] = {}
    for path, _ in walk(folder):
        if path.endswith((".safetensors", INDEX)):
            at = PurePosixPath(path)
            held.setdefault(str(at.parent), []).append(at.name)
    return tuple(Component(name, _bytes(folder / name, names)) for name, names in sorted(held.items()))


def _bytes(folder: Path, names: list[str]) -> Mapping[str, int]:
    count: Counter[str] = Counter()
    for name in _loaded(folder, names):
        count.update(read_header(folder / name).bytes_by_dtype)
    return dict(count)


def _loaded(folder: Path, names: list[str]) -> Iterator[str]:
    """The files that make up the component: not its other variants, such as fp16 beside fp32."""
    weights = [name for name in names if name.endswith(".safetensors")]
    indexes = [name for name in names if name.endswith(INDEX)]
    if plain := next((name for name in _PLAIN if name in weights), None):
        yield plain
    elif indexes:
        yield from read_index(folder / min(indexes, key=len))
    else:
        yield from weights
