"""What this machine can do, found out by trying. Runs in the runner child."""

from __future__ import annotations

import logging
import os
import platform
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from framewright.errors import EngineError
from workers import gpus
from workers.engines.registry import ENGINES

_log = logging.getLogger(__name__)


def probe(engines: tuple[str, ...], configured: Path | None = None) -> dict[str, Any]:
    """Facts for the presence row: which of `engines` work here, encoders, memory and GPUs (MB), versions.

    `vram_mb` is that of the first GPU, the only one that a runner uses: 0 without one, and left out where the driver
    does not say. An engine works when its module is there and,
    because each writes video, when some encoder works. `configured` is the ffmpeg to use. Takes a second or two, most
    of it one-frame encodes.
    """
    from workers.media import encoders, ffmpeg

    versions = {"python": platform.python_version()}
    try:
        binary = ffmpeg.resolve(configured)
        found = encoders.available(binary)
        versions["ffmpeg"] = ".".join(str(part) for part in ffmpeg.version(binary))
    except EngineError:
        found = ()
    return {
        "engines": [name for name in engines if found and _importable(name)],
        "encoders": [
            {"name": encoder.label, "codec": encoder.codec, "hardware": encoder.hardware} for encoder in found
        ],
        **_gpus(),
        "memory_mb": psutil.virtual_memory().total // 1_000_000,
        "cpus": os.cpu_count() or 1,
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }


def _gpus() -> dict[str, Any]:
    try:
        seen = gpus.visible()
    except gpus.NoAnswer as error:
        _log.error("the GPUs of this machine are not known, so it offers no models that might need them: %s", error)
        return {"gpus": []}
    return {"gpus": seen, "vram_mb": seen[0]["vram_mb"] if seen else 0}


def _importable(name: str) -> bool:
    module = ENGINES.get(name, "").partition(":")[0]
    return bool(module) and find_spec(module) is not None
