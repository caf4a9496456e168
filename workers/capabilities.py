"""What this machine can do, found out by trying. Runs in the runner child."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import psutil

from framewright.errors import EngineError
from workers.engines.registry import ENGINES

_SMI_S: Final = 10.0


def probe(engines: tuple[str, ...], configured: Path | None = None) -> dict[str, Any]:
    """Facts for the presence row: which of `engines` work here, encoders, memory and GPUs (MB), versions.

    An engine works when its module is there and, because each writes video, when some encoder works. `configured` is
    the ffmpeg to use. Takes a second or two, most of it one-frame encodes.
    """
    from workers.media import encoders, ffmpeg

    versions = {"python": platform.python_version()}
    try:
        binary = ffmpeg.resolve(configured)
        found = encoders.available(binary)
        versions["ffmpeg"] = ".".join(str(part) for part in ffmpeg.version(binary))
    except EngineError:
        found = ()
    gpus = _gpus()
    return {
        "engines": [name for name in engines if found and _importable(name)],
        "encoders": [
            {"name": encoder.label, "codec": encoder.codec, "hardware": encoder.hardware} for encoder in found
        ],
        "gpus": gpus,
        "vram_mb": max((gpu["vram_mb"] for gpu in gpus), default=0),
        "memory_mb": psutil.virtual_memory().total >> 20,
        "cpus": os.cpu_count() or 1,
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }


def _importable(name: str) -> bool:
    module = ENGINES.get(name, "").partition(":")[0]
    return bool(module) and find_spec(module) is not None


def _gpus() -> list[dict[str, Any]]:
    """NVIDIA GPUs as the driver lists them; asking torch would load it and keep hundreds of MB."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return []
    query = [smi, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, timeout=_SMI_S, check=True, text=True)
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = []
    for line in done.stdout.splitlines():
        name, _, memory = line.rpartition(",")
        if memory.strip().isdigit():
            gpus.append({"name": name.strip(), "vram_mb": int(memory)})
    return gpus
