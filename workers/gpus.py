"""The GPUs that CUDA shows to a process here. The first of them is the one that a runner uses.

The driver itself is asked, because it is whom torch asks: `CUDA_VISIBLE_DEVICES` counts (numbers, UUIDs, MIG slices),
the order is the same, and so is the memory. Torch would take hundreds of MB to say it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import subprocess
import sys
from typing import Any, Final

DRIVER: Final = "libcuda.so.1"
ANSWER_S: Final = 60.0
"""A machine with eight large GPUs takes tens of seconds when nothing keeps its driver initialised."""
_KILLED_S: Final = 1.0
_NAME: Final = 256
# What cuInit answers where there is a driver for no device at all: the stub of the toolkit, and a machine without any.
_NONE: Final = frozenset({34, 100})


class NoAnswer(Exception):
    """There is a driver, and it does not say which GPUs there are; a sentence."""


def visible() -> list[dict[str, Any]]:
    """Name and memory (MB) of each, in CUDA's order; none without a driver or a device, else `NoAnswer`.

    Asked in a process of its own, so that a driver that hangs holds up nobody for longer than `ANSWER_S`, and nothing
    of it stays in this one.
    """
    asking = subprocess.Popen(
        [sys.executable, "-m", "workers.gpus"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        said, wrong = asking.communicate(timeout=ANSWER_S)
    except subprocess.TimeoutExpired:
        asking.kill()
        # One that hangs inside the kernel outlives that, and is not waited for.
        with contextlib.suppress(subprocess.TimeoutExpired):
            asking.communicate(timeout=_KILLED_S)
        raise NoAnswer(f"{DRIVER} took longer than {ANSWER_S:g} s") from None
    if asking.returncode:
        last = wrong.strip().rpartition("\n")[2]
        raise NoAnswer(last or f"asking {DRIVER} ended with status {asking.returncode}")
    gpus: list[dict[str, Any]] = json.loads(said)
    return gpus


def told(driver: Any) -> list[dict[str, Any]]:
    """What the driver says of its devices, up to the first that it cannot describe; `NoAnswer` if that is the first."""
    count = ctypes.c_int()
    wrong = driver.cuInit(0)
    if wrong in _NONE:
        return []
    if wrong := wrong or driver.cuDeviceGetCount(ctypes.byref(count)):
        raise NoAnswer(f"{DRIVER} cannot be used (CUDA error {wrong})")
    seen: list[dict[str, Any]] = []
    for number in range(count.value):
        gpu = _device(driver, number)
        if gpu is None:
            break
        seen.append(gpu)
    if count.value and not seen:
        raise NoAnswer(f"{DRIVER} cannot describe the first GPU")
    return seen


def _device(driver: Any, number: int) -> dict[str, Any] | None:
    device, name, size = ctypes.c_int(), ctypes.create_string_buffer(_NAME), ctypes.c_size_t()
    wrong = (
        driver.cuDeviceGet(ctypes.byref(device), number)
        or driver.cuDeviceGetName(name, _NAME, device)
        or driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    )
    return None if wrong else {"name": name.value.decode(errors="replace"), "vram_mb": size.value // 1_000_000}


def main() -> None:
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        sys.stdout.write("[]")
        return
    try:
        sys.stdout.write(json.dumps(told(driver)))
    except NoAnswer as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
