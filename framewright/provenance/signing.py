"""Signing files in a child process: the child parses what strangers sent, the key stays here."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from framewright.errors import BadInput, Canceled, SigningFailed
from framewright.probe import environment
from framewright.provenance import manifest
from framewright.provenance.credentials import Credentials
from framewright.provenance.manifest import Making

CLIPS: Final = frozenset({"video/mp4", "video/quicktime"})
WHOLE: Final = frozenset({"image/jpeg", "image/png", "image/webp", "image/gif", "audio/wav", "application/zip"})
"""What carries a manifest too, but is read into memory for it."""
FORMATS: Final = CLIPS | WHOLE
"""What can carry a manifest."""
BESIDE: Final = frozenset({"video/webm"})
"""What cannot, and has it in a file of its own."""
MOST_WHOLE: Final = 256 << 20
"""A larger file of `WHOLE` has its manifest beside it as well (bytes)."""
SIDECAR: Final = "application/c2pa"
_FAMILIES: Final = {"application/zip": "application/x-zip"}
"""Types that the library calls by another name."""
MEMORY: Final = 2_000_000_000
"""Address space of the child (bytes); it takes 0.55 GB of memory for a clip of any size, and a picture's size more."""
MOST_ADDED: Final = 32 << 20
"""What a manifest, with those of the inputs in it, may add to an output (bytes)."""
_LOOK_S: Final = 0.1
_START_S: Final = 60.0
_SLOWEST: Final = 5_000_000
"""Bytes a second on the slowest disk that is still waited for; each file is read three times and written twice."""


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A finished file: it is replaced by the signed one."""

    name: str
    path: Path
    content_type: str

    @property
    def embeds(self) -> bool:
        """Whether its manifest goes into it."""
        return self.content_type in CLIPS or (self.content_type in WHOLE and self.path.stat().st_size <= MOST_WHOLE)


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The manifest of an output that does not carry it: it holds for exactly its bytes."""

    of: str
    path: Path


def sign(
    credentials: Credentials,
    making: Making,
    files: Sequence[Unsigned],
    *,
    canceled: Callable[[], bool] = lambda: False,
    tsa_url: str | None = None,
) -> list[Sidecar]:
    """Replaces each file by the same with a signed manifest in it, or leaves it as it was.

    A file that cannot carry one stays as it is, and its manifest comes to lie beside it (`.c2pa`).

    Runs in constant memory; needs room for two further copies of the largest file beside it. `SigningFailed` when it
    cannot be done, `BadInput` when an input carries too large a manifest, `OSError` for the disk, `Canceled` soon after
    `canceled` says so.
    """
    for file in files:
        if file.content_type not in FORMATS | BESIDE:
            raise SigningFailed(f"{file.name}: a file of type {file.content_type} can carry no signed manifest")
    credentials.check_valid()
    targets = [file.path.with_name(f".{file.path.name}.signed") for file in files]
    order = _order(credentials, making, list(zip(files, targets, strict=True)), tsa_url)
    beside: list[Sidecar] = []
    try:
        with _Signer(order, folder=files[0].path.parent if files else Path()) as signer:
            _serve(signer, credentials, len(files), canceled)
        for file, target, said in zip(files, targets, order["files"], strict=True):
            if said["embed"]:
                target.replace(file.path)
            else:
                beside.append(Sidecar(file.name, target.replace(file.path.with_suffix(".c2pa"))))
    finally:
        for target in targets:
            target.unlink(missing_ok=True)
    return beside


def _order(
    credentials: Credentials, making: Making, files: Sequence[tuple[Unsigned, Path]], tsa_url: str | None
) -> dict[str, Any]:
    now = datetime.now(UTC)
    sizes = [file.path.stat().st_size for file, _ in files]
    inputs = manifest.listed(making)
    work = sum(sizes) + len(sizes) * sum(one.path.stat().st_size for one in inputs)
    return {
        "chain": credentials.chain,
        "algorithm": credentials.algorithm,
        "tsa_url": tsa_url,
        "hosts": [urlsplit(tsa_url).netloc] if tsa_url else [],
        "patience_s": _START_S + work / _SLOWEST,
        "cpu_s": int(_START_S + work / _SLOWEST),
        "file_bytes": max(sizes, default=0) + (256 << 20),
        "memory": MEMORY,
        "most_added": MOST_ADDED,
        "files": [
            {
                "name": file.name,
                "source": str(file.path),
                "target": str(target),
                "content_type": _FAMILIES.get(file.content_type, file.content_type),
                "embed": file.embeds,
                "manifest": manifest.document(making, file.name, now),
            }
            for file, target in files
        ],
        "inputs": [
            {"path": str(one.path), "content_type": one.content_type, "ingredient": said, "readable": True}
            for one, said in zip(inputs, manifest.ingredients(making), strict=True)
        ],
    }


def _serve(signer: _Signer, credentials: Credentials, most: int, canceled: Callable[[], bool]) -> None:
    """Answers the child until it is done. It may ask for one signature a file, so that it cannot collect them."""
    asked = 0
    for message in signer.messages(canceled):
        if "sign" in message:
            asked += 1
            if asked > most:
                raise SigningFailed("the signer asked for more signatures than there are files")
            signer.answer({"signature": base64.b64encode(credentials.sign(_bytes(message["sign"]))).decode()})
        elif message.get("input"):
            raise BadInput(f"{message['failed']}; send them without their provenance data", field="/input")
        elif message.get("errno"):
            raise OSError(message["errno"], os.strerror(message["errno"]))
        elif "failed" in message:
            raise SigningFailed(f"the output could not be signed: {message['failed']}")
        elif "done" in message:
            return


def _bytes(text: object) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except binascii.Error:
        raise SigningFailed("the signer spoke nonsense") from None


class _Signer:
    """The child process, killed and reaped on the way out whatever happens."""

    def __init__(self, order: dict[str, Any], folder: Path) -> None:
        self._until = time.monotonic() + order["patience_s"]
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "framewright.provenance.signing_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # The library's own temporary copies go where there is room for the file itself.
            env={**environment(), "TMPDIR": str(folder)},
        )
        self._reader = threading.Thread(target=self._read, name="signer", daemon=True)
        self._reader.start()
        self._writer = threading.Thread(target=self.answer, args=(order,), name="signer-order", daemon=True)
        self._writer.start()

    def __enter__(self) -> _Signer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._writer.join()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe and pipe.close()

    def answer(self, document: dict[str, Any]) -> None:
        """Sends a line; a child that is gone says so by ending its own."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(document).encode() + b"\n")
            self._process.stdin.flush()

    def messages(self, canceled: Callable[[], bool]) -> Iterator[dict[str, Any]]:
        """What the child says, until it ends."""
        while True:
            try:
                line = self._lines.get(timeout=_LOOK_S)
            except queue.Empty:
                line = b""
            if canceled():
                raise Canceled("the signing was canceled")
            if line:
                yield self._understood(line)
            elif line is None:
                raise SigningFailed(f"the signer ended before it was done (status {self._process.wait()})")
            elif time.monotonic() > self._until:
                raise SigningFailed("signing took too long")

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    @staticmethod
    def _understood(line: bytes) -> dict[str, Any]:
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise SigningFailed("the signer spoke nonsense")
        return said
