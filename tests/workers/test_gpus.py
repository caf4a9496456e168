"""What the driver says of its devices becomes what a worker says of itself: the first one counts."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workers import gpus

SOURCE = """
#include <stdlib.h>
#include <string.h>
/* Two devices; CUDA_VISIBLE_DEVICES names the first one shown, by number or by the start of its UUID. */
static int first(void) {
    const char *said = getenv("CUDA_VISIBLE_DEVICES");
    return said && (!strcmp(said, "1") || !strncmp(said, "GPU-b", 5));
}
int cuInit(unsigned flags) { return getenv("DRIVER_IS_BROKEN") ? 100 : 0; }
int cuDeviceGetCount(int *count) { *count = 2 - first(); return 0; }
int cuDeviceGet(int *device, int number) { *device = number + first(); return 0; }
int cuDeviceGetName(char *name, int room, int device) {
    strcpy(name, device ? "Large" : "Small");
    return getenv("FIRST_IS_LOST") && !device ? 999 : 0;
}
int cuDeviceTotalMem_v2(size_t *size, int device) { *size = device ? 84987740160 : 8589934592; return 0; }
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a library that speaks like the driver."""
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(SOURCE)
    build = ["cc", "-shared", "-fPIC", "-o", gpus.DRIVER, "driver.c"]
    try:
        subprocess.run(build, cwd=folder, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs a C compiler")
    return folder


def test_devices_come_in_the_order_of_the_driver_and_in_megabytes_of_a_million(driver: Path) -> None:
    seen = gpus.told(ctypes.CDLL(str(driver / gpus.DRIVER)))
    assert seen == [{"name": "Small", "vram_mb": 8_589}, {"name": "Large", "vram_mb": 84_987}]


def test_a_device_that_cannot_be_described_is_left_out(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST_IS_LOST", "1")
    assert [gpu["name"] for gpu in gpus.told(ctypes.CDLL(str(driver / gpus.DRIVER)))] == ["Large"]


def asked(driver: Path, what: str, **environment: str) -> Any:
    """The value of an expression in a process that has that driver and environment."""
    text = f"import json\nfrom workers import capabilities, gpus\nprint(json.dumps({what}))"
    env = {**os.environ, "LD_LIBRARY_PATH": str(driver), **environment}
    return json.loads(subprocess.run([sys.executable, "-c", text], env=env, check=True, capture_output=True).stdout)


@pytest.mark.parametrize("shown", ["1", "GPU-b0000000-0000-0000-0000-000000000000"])
def test_the_environment_says_which_device_is_the_first(driver: Path, shown: str) -> None:
    seen = asked(driver, "gpus.visible()", CUDA_VISIBLE_DEVICES=shown)
    assert seen == [{"name": "Large", "vram_mb": 84_987}]


def test_a_worker_has_what_its_first_device_has_even_if_another_one_has_more(driver: Path) -> None:
    facts = asked(driver, "capabilities.probe(('camera-move',))")
    assert facts["vram_mb"] == 8_589
    assert [gpu["name"] for gpu in facts["gpus"]] == ["Small", "Large"]


def test_a_driver_that_is_broken_is_as_none(driver: Path) -> None:
    assert asked(driver, "gpus.visible()", DRIVER_IS_BROKEN="1") == []
