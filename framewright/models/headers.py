"""What a safetensors file says it holds, checked to the last byte before any library is let near it."""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from framewright.errors import WeightsRefused

SAFETENSORS = "application/x-safetensors"
"""Nobody has registered one."""
MOST_HEADER = 100_000_000
MOST_SMALL_HEADER = 8_000_000
"""Of a LoRA, which a user sends: the matrices of a large model take hundreds of thousands of bytes, and trainers note
what they know of their pictures."""
MOST_INDEX = 100_000_000
_MOST_RANK = 64
_BITS: Mapping[str, int] = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")
# What else is renamed to .safetensors, by its first bytes.
_FOREIGN: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"PK\x03\x04"), "a zip archive, as torch.save writes them"),
    (re.compile(rb"\x80[\x02-\x05]"), "a pickle"),
    (re.compile(rb"GGUF"), "a GGUF file"),
    (re.compile(rb"\x89HDF"), "an HDF5 file"),
    (re.compile(rb"version https://git-lfs"), "the pointer of a large file that git did not fetch"),
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor; `begin` and `end` count bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header: every tensor, and the strings that came with them."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    @property
    def bytes_by_dtype(self) -> dict[str, int]:
        count: Counter[str] = Counter()
        for tensor in self.tensors.values():
            count[tensor.dtype] += tensor.end - tensor.begin
        return dict(count)

    @property
    def data_bytes(self) -> int:
        return sum(tensor.end - tensor.begin for tensor in self.tensors.values())


class _Wrong(Exception):
    """Why a file is refused, as the end of a sentence that begins with its name."""


def read_header(path: Path, most: int = MOST_HEADER) -> Header:
    """The header of a safetensors file; `WeightsRefused` names the file and what is wrong. Tensor data is not read.

    `most` bytes of it are read at most: as objects they take many times that memory. A link is not followed. NaN among
    the numbers is for the loader to find.
    """
    with opened(path) as file:
        return header_of(file, str(path), most)


def header_of(file: BinaryIO, name: str, most: int = MOST_HEADER) -> Header:
    """As `read_header`, of a file that is open already."""
    try:
        return _header(file, os.fstat(file.fileno()).st_size, most)
    except _Wrong as wrong:
        raise WeightsRefused(f"{name} is refused: {wrong}") from None


def read_index(path: Path) -> dict[str, tuple[str, ...]]:
    """The shards that a `*.safetensors.index.json` names, each with its tensors; every one is there and checked."""
    try:
        with opened(path) as file:
            if os.fstat(file.fileno()).st_size > MOST_INDEX:
                raise _Wrong(f"an index has at most {MOST_INDEX} bytes")
            mapping = _object(file.read(MOST_INDEX), "the index").get("weight_map")
        if not isinstance(mapping, dict) or not mapping:
            raise _Wrong("it has no weight_map")
        shards: dict[str, list[str]] = {}
        for tensor, shard in mapping.items():
            if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
                raise _Wrong(f"{_quoted(shard)} is not the name of a safetensors file beside it")
            shards.setdefault(shard, []).append(tensor)
        for shard, tensors in shards.items():
            if not path.with_name(shard).is_file():
                raise _Wrong(f"its shard {shard} is not there")
            held = read_header(path.with_name(shard)).tensors
            missing = next((tensor for tensor in tensors if tensor not in held), None)
            if missing is not None:
                raise _Wrong(f"its shard {shard} lacks the tensor {_quoted(missing)}")
    except _Wrong as wrong:
        raise WeightsRefused(f"{path} is refused: {wrong}") from None
    return {shard: tuple(tensors) for shard, tensors in shards.items()}


def read_object(path: Path, most: int = 1_000_000) -> dict[str, Any]:
    """A small JSON object without duplicate keys, such as a model_index.json; `WeightsRefused` otherwise."""
    try:
        with opened(path) as file:
            raw = file.read(most + 1)
        if len(raw) > most:
            raise _Wrong(f"it has more than {most} bytes")
        return _object(raw, "it")
    except _Wrong as wrong:
        raise WeightsRefused(f"{path} is refused: {wrong}") from None


def opened(path: Path) -> BinaryIO:
    """The regular file itself, never what a link leads to."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise WeightsRefused(f"{path} is refused: it is a link or cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise WeightsRefused(f"{path} is refused: it is no regular file")
    return os.fdopen(descriptor, "rb")


def _header(file: BinaryIO, size: int, most: int) -> Header:
    first = file.read(8)
    length = int.from_bytes(first, "little")
    if len(first) < 8:
        raise _Wrong(f"it has {size} bytes, and safetensors begins with the 8 of its header's length")
    if length > min(most, size - 8):
        _foreign(first + file.read(32))
        end = "the file" if length <= most else f"the {most} bytes that are allowed"
        raise _Wrong(f"its header claims {length} bytes, more than {end}")
    raw = file.read(length)
    if len(raw) != length:
        raise _Wrong("it ended while its header was read")
    if not raw.startswith(b"{"):
        _foreign(first + raw[:32])
        raise _Wrong("its header is no JSON object")
    document = _object(raw, "the header")
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _Wrong("its metadata may hold texts only")
    tensors = {name: _tensor(name, said) for name, said in document.items()}
    _tile(tensors, size - 8 - length)
    return Header(tensors, metadata)


def _tensor(name: str, said: Any) -> Tensor:
    at = f"the tensor {_quoted(name)}"
    if not isinstance(said, dict) or set(said) != {"dtype", "shape", "data_offsets"}:
        raise _Wrong(f"{at} must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise _Wrong(f"{at} has the unknown dtype {_quoted(dtype)}")
    if not _naturals(shape) or len(shape) > _MOST_RANK:
        raise _Wrong(f"{at} has a shape that is no list of up to {_MOST_RANK} whole numbers")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _Wrong(f"{at} has data_offsets that are no range")
    bits = prod(shape) * _BITS[dtype]
    if bits % 8 or bits // 8 != offsets[1] - offsets[0]:
        raise _Wrong(f"{at} holds {offsets[1] - offsets[0]} bytes, its dtype and shape ask for {bits / 8:.15g}")
    return Tensor(dtype, tuple(shape), offsets[0], offsets[1])


def _tile(tensors: Mapping[str, Tensor], size: int) -> None:
    """The tensors cover the data once: nothing is shared between two of them, and nothing is hidden between them."""
    reached = 0
    for name, tensor in sorted(tensors.items(), key=lambda pair: (pair[1].begin, pair[1].end)):
        if tensor.begin != reached:
            how = "overlaps the one before it" if tensor.begin < reached else "leaves a gap before it"
            raise _Wrong(f"the tensor {_quoted(name)} {how}")
        reached = tensor.end
    if reached != size:
        raise _Wrong(f"its tensors end at byte {reached} of data, and there are {size}")


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(part) is int and 0 <= part < 1 << 63 for part in value)


def _object(raw: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise _Wrong(f"{what} is nested too deeply") from None
    except ValueError:
        raise _Wrong(f"{what} is no valid JSON") from None
    if not isinstance(document, dict):
        raise _Wrong(f"{what} is no JSON object")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise _Wrong(f"{_quoted(twice)} is there twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise _Wrong(f"{name} is no number that JSON knows")


def _foreign(first: bytes) -> None:
    for magic, what in _FOREIGN:
        if magic.match(first):
            raise _Wrong(f"it is {what}, whatever its name says")


def _quoted(value: Any) -> str:
    return repr(value)[:80]
