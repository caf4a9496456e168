"""The child of `framewright.provenance.signing`: builds manifests and embeds them. It never sees the key.

Reads one order (JSON, a line) from stdin. For each file it asks once for a signature, `{"sign": base64}`, reads one
line `{"signature": base64}`, and says `{"signed": name}`. Its last word is `{"done": true}` or `{"failed": text}`.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path
from typing import IO, Any

from framewright.provenance import box

FILES = 64
READABLE_PICTURE = 256 << 20
"""A larger picture becomes an ingredient by name only, because the library reads pictures whole (bytes)."""


class _Disk:
    """A file as the library wants it, which remembers why a write failed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.errno: int | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.errno = error.errno
            raise

    def readinto(self, into: Any) -> int:
        return self._file.readinto(into)  # type: ignore[attr-defined, no-any-return]

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self) -> None:
        self._file.truncate()

    def flush(self) -> None:
        self._file.flush()


def main() -> None:
    order = json.loads(sys.stdin.readline())
    try:
        import c2pa
    except Exception as error:  # noqa: BLE001 - a library for another machine fails in many ways
        box.say({"failed": f"the package c2pa-python does not work here ({type(error).__name__})"})
        return
    box.lock(memory=order["memory"], cpu_s=order["cpu_s"], file_bytes=order["file_bytes"], files=FILES)
    for file in order["files"]:
        disk: _Disk | None = None
        try:
            with Path(file["source"]).open("rb") as source, Path(file["target"]).open("xb+", buffering=0) as target:
                disk = _Disk(target)
                _sign(c2pa, order, file, source, disk)
                os.fsync(target.fileno())
                added = os.fstat(target.fileno()).st_size
                if file["embed"]:
                    added -= os.fstat(source.fileno()).st_size
        except (c2pa.C2paError, OSError) as error:
            number = error.errno if isinstance(error, OSError) else disk and disk.errno
            box.say({"failed": f"{type(error).__name__.strip('_')}: {error}", "errno": number})
            return
        if added > order["most_added"]:
            box.say({"failed": f"the manifests of the inputs take {added >> 20} MiB", "input": True})
            return
        box.say({"signed": file["name"], "added": added})
    box.say({"done": True})


def _sign(c2pa: Any, order: dict[str, Any], file: dict[str, Any], source: IO[bytes], target: _Disk) -> None:
    signer = c2pa.Signer.from_callback(
        _ask, c2pa.C2paSigningAlg[order["algorithm"]], order["chain"], order["tsa_url"] or None
    )
    context = c2pa.Context.from_dict(box.library_settings(hosts=tuple(order["hosts"])))
    builder = _builder(c2pa, context, order, file["manifest"])
    if file["embed"]:
        builder.sign(signer, file["content_type"], source, target)
        return
    # Bound to all bytes of the file, whatever they are. The library checks itself on a copy, which gives way to it.
    builder.set_no_embed()
    manifest = builder.sign(signer, "application/octet-stream", source, target)
    target.seek(0)
    target.truncate()
    target.write(manifest)


def _builder(c2pa: Any, context: Any, order: dict[str, Any], manifest: dict[str, Any]) -> Any:
    """The manifest with its ingredients; of those that cannot be read, only title and type are told."""
    inputs = order["inputs"]
    while True:
        bare = [one["ingredient"] for one in inputs if not one["readable"]]
        builder = c2pa.Builder({**manifest, "ingredients": bare}, context)
        if all(_added(c2pa, builder, one) for one in inputs if one["readable"]):
            return builder


def _added(c2pa: Any, builder: Any, one: dict[str, Any]) -> bool:
    """Whether the input, and what manifest it has, is in the builder now; otherwise it is not tried again."""
    try:
        one["readable"] = _readable(one["path"], one["content_type"])
        if one["readable"]:
            with Path(one["path"]).open("rb") as file:
                builder.add_ingredient(one["ingredient"], one["content_type"], file)
    except c2pa.C2paError:
        # It decoded, or there would be no output; this parser is the pickier one.
        one["readable"] = False
    return bool(one["readable"])


def _readable(path: str, content_type: str) -> bool:
    return not content_type.startswith("image/") or Path(path).stat().st_size <= READABLE_PICTURE


def _ask(data: bytes) -> bytes:
    box.say({"sign": base64.b64encode(data).decode()})
    answer = json.loads(sys.stdin.readline())
    return base64.b64decode(answer["signature"])


if __name__ == "__main__":
    main()
