"""`framewright models` as people and scripts use it."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from model_hub import Hub
from tiny_model import BOUND, REPO, TAKEN, repository, weights
from waiting import until

from framewright import catalogue
from framewright.cli import main

Run = Callable[..., Any]
COMMAND = [sys.executable, "-m", "framewright.cli", "models"]
CATALOGUE = f"""
[[model]]
name = "tiny"
like = "wan-2.1-t2v-1.3b"
repo = "{REPO}"
licence = {{ name = "Apache-2.0" }}

[[model]]
name = "bound"
like = "tiny"
licence = {{ name = "{BOUND.name}", url = "{BOUND.url}", commercial = false, note = "{BOUND.note}", accept = true }}
"""


@pytest.fixture
def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """A catalogue with two models of our own, and where their weights come from and go."""
    own = tmp_path / "catalogue.toml"
    own.write_text(CATALOGUE)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FRAMEWRIGHT_", "HF_"))}
    where = {"FRAMEWRIGHT_MODELS_DIR": str(tmp_path / "models"), "FRAMEWRIGHT_HUB_URL": hub.url}
    return kept | where | {"FRAMEWRIGHT_CATALOGUE": str(own)}


@dataclass(frozen=True, slots=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def models(environment: dict[str, str]) -> Run:
    """`models("ls", ...)`: run one command in this process, without a terminal, to its end.

    That it is the same as a process of its own is for the tests that press keys.
    """

    def run(*arguments: str, **env: str) -> Done:
        said, aside = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            for name in os.environ.keys() - environment.keys():
                patch.delenv(name)
            for name, value in (environment | env).items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", io.StringIO())
            patch.setattr(sys, "stdout", said)
            patch.setattr(sys, "stderr", aside)
            status = main(["models", *arguments])
        catalogue.install(None)
        return Done(status, said.getvalue(), aside.getvalue())

    return run


def lines(done: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_from_nothing_to_weights_and_back(models: Run, tmp_path: Path) -> None:
    table = [line.split()[:2] for line in models("ls").stdout.splitlines()]
    assert [line for line in table if line[0] in {"tiny", "bound"}] == [["tiny", "absent"], ["bound", "absent"]]
    done = models("pull", "tiny")
    assert (done.returncode, "tiny is complete" in done.stdout) == (0, True), done.stderr
    assert "licence   Apache-2.0" in done.stderr
    assert "tiny: 100%" in done.stderr
    shown = models("show", "tiny").stdout
    assert f"{REPO} at " in shown
    assert "complete" in shown
    assert "all right" in models("verify").stdout
    assert str(tmp_path / "models") in models("du").stdout
    refused = models("rm", "tiny")
    assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
    gone = models("rm", "tiny", "--yes")
    assert (gone.returncode, "tiny removed" in gone.stdout) == (0, True)
    assert models("verify").stdout == ""


def test_json_is_json_and_nothing_else(models: Run) -> None:
    pulled = lines(models("pull", "tiny", "--json"))
    assert {line["event"] for line in pulled[:-1]} == {"progress"}
    assert {line["file"] for line in pulled[:-1]} - {None} == TAKEN
    assert (pulled[-1]["event"], pulled[-1]["state"], pulled[-1]["why"]) == ("complete", "complete", None)
    (listed,) = lines(models("ls", "--json"))
    by_name = {one["model"]: one for one in listed["data"]}
    assert by_name["tiny"]["sources"][0]["revision"] == pulled[-1]["sources"][0]["revision"]
    assert (by_name["bound"]["state"], by_name["bound"]["accepted"], by_name["tiny"]["accepted"]) == (
        "absent",
        False,
        True,
    )
    (shown,) = lines(models("show", "tiny", "--json"))
    assert {part["name"] for part in shown["components"]} == {"transformer", "vae", "text_encoder"}
    (used,) = lines(models("du", "--json"))
    assert used["data"] == [{"name": "tiny", "size": by_name["tiny"]["bytes"], "known": True}]
    assert lines(models("verify", "--json"))[-1]["ok"] is True
    (gone,) = lines(models("rm", "tiny", "--yes", "--json"))
    assert gone["removed"] is True


def test_an_unknown_model_is_a_usage_error_that_names_those_there_are(models: Run) -> None:
    done = models("pull", "nothing")
    assert (done.returncode, "tiny, bound" in done.stderr) == (2, True)


def test_a_hub_that_is_away_is_unreachable_and_one_that_refuses_refuses(models: Run, hub: Hub) -> None:
    hub.repositories[REPO].gated = True
    done = models("pull", "tiny")
    assert (done.returncode, "HF_TOKEN" in done.stderr) == (4, True)
    assert models("pull", "tiny", HF_TOKEN="hf_right").returncode == 4, "this hub is not Hugging Face"
    assert models("pull", "tiny", FRAMEWRIGHT_HUB_TOKEN="hf_right").returncode == 0
    hub.say["/api/"] = [(200, b"<html>", {})]
    assert models("pull", "bound", FRAMEWRIGHT_ACCEPTED_LICENCES="bound").returncode == 3
    wrong = models("pull", "tiny", FRAMEWRIGHT_HUB_URL="ftp://x")
    assert (wrong.returncode, "FRAMEWRIGHT_HUB_URL" in wrong.stderr) == (6, True)


def test_damage_is_found_and_told_by_the_status(models: Run, tmp_path: Path) -> None:
    models("pull", "tiny")
    path = tmp_path / "models" / "tiny" / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    done = models("verify")
    assert (done.returncode, "fix: framewright models pull tiny" in done.stdout) == (6, True)
    listed = models("ls")
    assert "damaged" in listed.stdout
    assert "fix: framewright models pull tiny" in listed.stderr


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C means something to children, also where these tests run behind a shell's `&`, which is deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.fault
@pytest.mark.usefixtures("heard")
def test_ctrl_c_ends_it_at_once_and_the_next_pull_goes_on(
    models: Run, hub: Hub, environment: dict[str, str], tmp_path: Path
) -> None:
    hub.commit(REPO, repository() | {"vae/diffusion_pytorch_model.safetensors": weights(400_000, 5)})
    hub.hold_at = 300_000
    child = subprocess.Popen([*COMMAND, "pull", "tiny"], env=environment, stderr=subprocess.PIPE, text=True)
    assert hub.reached.wait(60)
    until(lambda: any(part.stat().st_size == 300_000 for part in tmp_path.rglob(".parts/*")))
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert (child.returncode, "interrupted" in said, "Traceback" in said) == (130, True, False)
    assert "partial" in models("ls").stdout
    hub.hold_at = None
    hub.seen.clear()
    assert models("pull", "tiny").returncode == 0
    assert 300_000 in [seen.start for seen in hub.asked("/cdn/")]


class TestLicence:
    def test_a_script_must_say_that_it_accepts(self, models: Run, hub: Hub) -> None:
        done = models("pull", "bound")
        assert (done.returncode, "--accept-licence" in done.stderr) == (6, True)
        assert "licence   Tiny Licence 1.0 (not for commercial use; not in Utopia)" in done.stderr
        assert BOUND.url in done.stderr
        assert not hub.seen

    def test_the_switch_and_who_used_it_are_kept(self, models: Run) -> None:
        done = lines(models("pull", "bound", "--accept-licence", "--json"))[-1]
        assert done["consent"]["how"] == "--accept-licence"
        assert "@" in done["consent"]["by"]

    def test_the_setting_accepts(self, models: Run) -> None:
        done = models("pull", "bound", "--json", FRAMEWRIGHT_ACCEPTED_LICENCES="bound")
        assert lines(done)[-1]["consent"]["how"] == "FRAMEWRIGHT_ACCEPTED_LICENCES"

    @pytest.mark.parametrize(("typed", "status"), [("y", 0), ("n", 6), ("", 6)])
    def test_a_person_is_asked(self, environment: dict[str, str], typed: str, status: int) -> None:
        said, code = at_terminal([*COMMAND, "pull", "bound"], environment, "[y/N]", typed)
        assert "Do you accept the licence Tiny Licence 1.0 of bound?" in said
        assert code == status

    def test_a_person_is_asked_before_weights_go(self, models: Run, environment: dict[str, str]) -> None:
        models("pull", "tiny")
        said, code = at_terminal([*COMMAND, "rm", "tiny"], environment, "[y/N]", "n")
        assert (code, "tiny was left alone" in said) == (0, True)
        said, code = at_terminal([*COMMAND, "rm", "tiny"], environment, "[y/N]", "y")
        assert (code, "tiny removed" in said) == (0, True)


def at_terminal(command: list[str], environment: dict[str, str], question: str, answer: str) -> tuple[str, int]:
    """Everything said on a terminal on which `answer` is typed once `question` stands there; the exit status."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True)
    os.close(theirs)
    said, typed = b"", False
    try:
        while chunk := os.read(ours, 65_536):
            said += chunk
            if question.encode() in said and not typed:
                typed = True
                os.write(ours, answer.encode() + b"\n")
    except OSError:
        pass  # the terminal is gone with its last user
    finally:
        os.close(ours)
    return said.decode(), child.wait(60)
