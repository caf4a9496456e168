"""The GPU benchmark measures what it says, which only its tiny cases can show where there is no GPU."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests/benchmarks"
# All that the project depends on and torch, diffusers, transformers and imageio-ffmpeg do not bring.
MISSING = ("pydantic", "pydantic_core", "pydantic_settings", "platformdirs", "av", "sqlalchemy", "psycopg", "celery")
MISSING += ("kombu", "redis", "boto3", "fastapi", "psutil", "dotenv", "accelerate", "ftfy", "peft", "sentencepiece")
WITHOUT = f"""
from importlib.machinery import PathFinder
found = PathFinder.find_spec
PathFinder.find_spec = classmethod(
    lambda cls, name, *more: None if name.partition(".")[0] in {MISSING} else found(name, *more)
)
"""


@pytest.fixture(scope="module")
def gpu() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("gpu")


@pytest.fixture(scope="module")
def report(gpu: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("gpu") / "report.json"
    gpu.main(["--case", "tiny", "--case", "tiny-wan", "--clips", "1", "--device", "cpu", "--json", str(file)])
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_a_clip_is_taken_apart_into_stages_that_add_up_to_it(report: dict[str, Any]) -> None:
    assert list(report["cases"]) == ["tiny", "tiny-wan"]
    assert report["skipped"] == []
    assert report["ceiling"]["tflops"] > 0
    for case in report["cases"].values():
        assert "error" not in case
        for who in ("stock", "ours"):
            one, stages = case[who], case[who]["stages_s"]
            assert list(stages) == ["text", "denoise", "decode", "copy", "encode"]
            assert all(0 < seconds < one["s_per_clip"] for seconds in stages.values())
            assert sum(stages.values()) > 0.1 * one["s_per_clip"]
            assert sum(stages.values()) <= one["s_per_clip"]
            assert one["s_per_step"] == pytest.approx(stages["denoise"] / case["steps"])
            assert 0 < one["mfu"] < 1.5
        assert case["ratio"]["clip"] == pytest.approx(case["ours"]["s_per_clip"] / case["stock"]["s_per_clip"])
        assert case["step_control"]["ratio"] > 0


def test_what_durable_steps_cost_is_measured_on_real_ones(report: dict[str, Any]) -> None:
    for name, case in report["cases"].items():
        # The latents alone, in 32 bits: 8 of 128 channels for LTX, 3 x 8 x 8 of 16 for Wan.
        least = 4 * (8 * 128 if name == "tiny" else 3 * 64 * 16)
        assert least < case["snapshot"]["mb"] * 1e6 < 100 * least
        assert case["snapshot"]["s"] > 0
        assert case["preview"]["s"] > 0
        resumed = case["resume"]
        assert (resumed["from_step"], resumed["steps"]) == (2, 2)
        assert resumed["forwards"] * 2 == resumed["forwards_of_all"]
        assert resumed["identical"]


@pytest.mark.parametrize("name", ["tiny", "tiny-wan"])
def test_the_work_that_is_counted_beforehand_is_that_of_the_real_call(gpu: ModuleType, name: str) -> None:
    case = gpu.TINY[name]
    built = case.build(torch.device("cpu"))
    pipe = built.pipe("t2v", min(case.size))
    given = gpu.paths.arguments(case.facts, pipe, "t2v", gpu.paths._params(case, 1, None), gpu.paths.Media())
    # Their math is counted; the fused kernel of a CPU is not known to the counter.
    backend = torch.nn.attention.SDPBackend.MATH
    with torch.nn.attention.sdpa_kernel(backend), FlopCounterMode(display=False) as counter:
        pipe(**given, generator=torch.Generator().manual_seed(0))
    assert gpu.counted(case).clip == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize(
    ("name", "parameters"), [("ltx-2b-30", 1.92e9), ("wan-1.3b-480p", 1.42e9), ("wan-14b-480p", 14.3e9)]
)
def test_models_of_full_size_are_those_that_were_published(gpu: ModuleType, name: str, parameters: float) -> None:
    denoiser = gpu.CASES[name].build(torch.device("meta")).pipe("t2v", 480).transformer
    assert sum(weight.numel() for weight in denoiser.parameters()) == pytest.approx(parameters, rel=0.01)


def test_the_work_of_a_full_clip_is_what_others_count(gpu: ModuleType) -> None:
    work = gpu.counted(gpu.CASES["ltx-2b-8"])
    assert (work.step / gpu.TERA, work.vae / gpu.TERA) == pytest.approx((29.4, 60.2), rel=0.01)


def test_no_weights_are_zeros(gpu: ModuleType) -> None:
    for case in gpu.TINY.values():
        pipe = case.build(torch.device("cpu")).pipe("t2v", 64)
        for part in (pipe.transformer, pipe.vae, pipe.text_encoder):
            for weight in part.parameters():
                assert torch.isfinite(weight).all()
                assert weight.ndim < 2 or weight.any()


def test_what_does_not_fit_the_budget_is_left_out_and_named(
    gpu: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    report = gpu.main(["--case", "tiny", "--device", "cpu", "--budget-s", "0"])
    assert report["cases"] == {}
    assert [(one["case"], one["what"]) for one in report["skipped"]] == [("tiny", "any of it")]
    assert "left out: tiny, any of it" in capsys.readouterr().err


def test_a_case_that_fails_ends_no_other(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("no memory left\nmore of it")

    monkeypatch.setattr(gpu.paths, "stock", failing)
    report = gpu.main(["--case", "tiny", "--case", "tiny-wan", "--device", "cpu"])
    assert report["cases"] == {name: {"error": "OutOfMemoryError: no memory left"} for name in gpu.TINY}
    assert any("failed: OutOfMemoryError" in line for line in gpu.report.table(report))


def test_it_runs_where_nothing_but_torch_diffusers_and_an_ffmpeg_is_installed(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, FOLDER / "gpu.py", "--case", "tiny", "--clips", "1", "--device", "cpu"],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["absent"] == ["pydantic", "pydantic_core", "pydantic_settings", "platformdirs"]
    assert math.isfinite(report["cases"]["tiny"]["ratio"]["clip"])
