"""The GPUs that CUDA shows to a process here. The first of them is the one that a runner uses.

The driver itself is asked, because it is whom torch asks: `CUDA_VISIBLE_DEVICES` counts (numbers, UUIDs, MIG slices),
the order is the same, and so is the memory. Torch would take hundreds of MB to say it.
"""

from __future__ import annotations

import ctypes
import json
import logging
import subprocess
import sys
from typing import Any, Final

DRIVER: Final = "libcuda.so.1"
_ANSWER_S: Final = 10.0
_NAME: Final = 256
_log = logging.getLogger(__name__)


def visible() -> list[dict[str, Any]]:
    """Name and memory (MB) of each, in CUDA's order; none where there is no driver, or none that answers.

    Asked in a process of its own, so that a driver that hangs holds up nobody, and nothing of it stays in this one.
    """
    asking = [sys.executable, "-m", "workers.gpus"]
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return []
    try:
        answer = subprocess.run(asking, capture_output=True, timeout=_ANSWER_S, check=True, text=True).stdout
        gpus: list[dict[str, Any]] = json.loads(answer)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        _log.warning("%s is there and does not say which GPUs there are: %s", DRIVER, error)
        return []
    return gpus


def told(driver: Any) -> list[dict[str, Any]]:
    """What the driver says of its devices; one that it cannot describe is not counted."""
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    return [gpu for number in range(count.value) if (gpu := _device(driver, number))]


def _device(driver: Any, number: int) -> dict[str, Any] | None:
    device, name, size = ctypes.c_int(), ctypes.create_string_buffer(_NAME), ctypes.c_size_t()
    wrong = (
        driver.cuDeviceGet(ctypes.byref(device), number)
        or driver.cuDeviceGetName(name, _NAME, device)
        or driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    )
    return None if wrong else {"name": name.value.decode(errors="replace"), "vram_mb": size.value // 1_000_000}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(told(ctypes.CDLL(DRIVER))))
