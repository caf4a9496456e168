"""What the settings say decides whether a worker signs, and with what."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from authority import pair
from desk import supervised

from framewright.errors import SettingsError
from framewright.provenance.anchors import anchors
from framewright.provenance.verifying import verify
from workers.supervisor import Supervisor


def test_switched_off_nothing_is_signed(desk, quick, tmp_path):
    with supervised(quick.model_copy(update={"provenance": False})):
        job = desk.succeeded(desk.submit())
    assert verify(desk.fetched(job.outputs[0], tmp_path), anchors(quick)) == {"signed": False}


def test_the_operators_certificate_signs(desk, quick, tmp_path):
    own = quick.model_copy(update=pair(tmp_path).settings())
    with supervised(own):
        job = desk.succeeded(desk.submit())
    said = verify(desk.fetched(job.outputs[0], tmp_path), anchors(own))
    assert (said["valid"], said["trusted"]) == (True, "operator")


def test_a_worker_with_a_wrong_certificate_does_not_start(quick, tmp_path):
    made = pair(tmp_path)
    made.key.write_text("nonsense")
    with pytest.raises(SettingsError, match="FRAMEWRIGHT_C2PA_KEY"):
        Supervisor(quick.model_copy(update=made.settings()))


def test_the_process_of_such_a_worker_says_so_in_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    made = pair(tmp_path)
    made.cert.unlink()
    done = subprocess.run(
        [sys.executable, "-m", "workers.start"],
        env=os.environ | environment | made.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == os.EX_CONFIG
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("framewright: FRAMEWRIGHT_C2PA_CERT names ")
    assert "Traceback" not in done.stderr
