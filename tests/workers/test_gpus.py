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
from desk import supervised
from waiting import until

from framewright import store
from workers import capabilities, gpus

SOURCE = """
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* Two devices; CUDA_VISIBLE_DEVICES names the first one shown, by number or by the start of its UUID. */
static int first(void) {
    const char *said = getenv("CUDA_VISIBLE_DEVICES");
    return said && (!strcmp(said, "1") || !strncmp(said, "GPU-b", 5));
}
int cuInit(unsigned flags) {
    const char *answer = getenv("CUINIT");
    if (answer && !strcmp(answer, "hangs")) for (;;) pause();
    const char *file = getenv("CUDA_IS_BROKEN_WHILE");
    if (file && !access(file, F_OK)) return 803;
    return answer ? atoi(answer) : 0;
}
int cuDeviceGetCount(int *count) { *count = 2 - first(); return 0; }
int cuDeviceGet(int *device, int number) { *device = number + first(); return 0; }
int cuDeviceGetName(char *name, int room, int device) {
    strcpy(name, device ? "Large" : "Small");
    return getenv("LOST") && device == atoi(getenv("LOST")) ? 999 : 0;
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


def test_devices_count_up_to_one_that_cannot_be_described(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOST", "1")
    assert [gpu["name"] for gpu in gpus.told(ctypes.CDLL(str(driver / gpus.DRIVER)))] == ["Small"]


def test_a_first_device_that_cannot_be_described_is_not_replaced_by_the_next(
    driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOST", "0")
    with pytest.raises(gpus.NoAnswer, match="cannot describe the first GPU"):
        gpus.told(ctypes.CDLL(str(driver / gpus.DRIVER)))


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


@pytest.mark.parametrize("answer", ["34", "100"])
def test_a_driver_for_no_device_shows_none(driver: Path, answer: str) -> None:
    assert asked(driver, "gpus.visible()", CUINIT=answer) == []


def test_without_a_driver_there_are_no_devices(tmp_path: Path) -> None:
    (tmp_path / gpus.DRIVER).write_text("no library")
    assert asked(tmp_path, "gpus.visible()") == []


@pytest.mark.parametrize(("answer", "said"), [("803", "CUDA error 803"), ("hangs", "took longer than 0.5 s")])
def test_a_driver_that_does_not_answer_is_not_taken_for_none(
    driver: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answer: str, said: str
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    monkeypatch.setenv("CUINIT", answer)
    if answer == "hangs":
        monkeypatch.setattr(gpus, "ANSWER_S", 0.5)
    facts = capabilities.probe(("camera-move",))
    assert (facts["engines"], facts["gpus"], "vram_mb" in facts) == (["camera-move"], [], False)
    assert said in caplog.text


def test_a_worker_asks_a_driver_again_that_did_not_answer_and_works_meanwhile(
    driver: Path, desk, quick, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (broken := tmp_path / "broken").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    monkeypatch.setenv("CUDA_IS_BROKEN_WHILE", str(broken))
    monkeypatch.setattr("workers.supervisor.AGAIN_S", 0.0)
    with supervised(quick) as worker:
        desk.succeeded(desk.submit())
        row = until(lambda: store.get_worker(desk.db, worker.name))
        assert "vram_mb" not in row.capabilities
        broken.unlink()
        until(lambda: store.get_worker(desk.db, worker.name).capabilities.get("vram_mb") == 8_589)
