"""The examples of the README do what they say, word for word, against a real service."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from framewright.local import System

README = Path(__file__).parents[2] / "README.md"


def example(language: str, holding: str, system: System) -> str:
    """The one code block that holds this text, with the address and the key of `system`."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    (block,) = [one for one in blocks if holding in one]
    return str(block).replace("http://127.0.0.1:8000", system.url).replace("fw_live_...", str(system.api_key))


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_the_examples_make_a_video_and_follow_its_job(service: System, tmp_path: Path) -> None:
    Image.linear_gradient("L").resize((320, 180)).convert("RGB").save(tmp_path / "photo.jpg")
    shell = example("sh", "/api/v1/assets", service)
    made = subprocess.run(["bash", "-euo", "pipefail", "-c", shell], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    job = json.loads((tmp_path / "job.json").read_text())
    assert job["status"] == "succeeded"
    assert (tmp_path / "clip.mp4").stat().st_size == job["outputs"][0]["size"]

    python = example("python", "/api/v1/ws", service).replace("job_...", job["id"])
    # An ended job is a snapshot and the close with 1000, after which the loop ends.
    followed = subprocess.run([sys.executable, "-c", python], capture_output=True, text=True, timeout=60)
    assert followed.returncode == 0, followed.stderr
    said = [line for line in followed.stdout.splitlines() if line.startswith("{")]
    assert [re.findall(r"'type': '(\w+)'", line)[0] for line in said][:1] == ["welcome"]
    assert any("'status': 'succeeded'" in line for line in said)
