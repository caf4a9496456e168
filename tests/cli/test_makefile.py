"""The Makefile: what a newcomer types first."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "VENV", "PYTHON"))}


def make(*arguments: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=CLEAN | env, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the Makefile and no environment."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def chosen(checkout: Path, path: Path) -> str:
    """Which Python the Makefile would use with that PATH."""
    (checkout / "asking.mk").write_text("include Makefile\nask:\n\t@echo '[$(PYTHON)]'\n")
    return make("-f", "asking.mk", "ask", cwd=checkout, PATH=f"{path}{os.pathsep}/usr/bin{os.pathsep}/bin").stdout


def test_bare_make_prints_every_target() -> None:
    done = make()
    targets = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:"))
    assert done.returncode == 0
    assert [target for target in targets.split()[1:] if f"make {target} " not in done.stdout] == []
    assert done.stdout.splitlines()[0].endswith("make demo")


def test_a_python_that_does_not_start_is_passed_over(checkout: Path) -> None:
    bin_ = checkout / "bin"
    program(bin_, "python3.13", "echo 'pyenv: python3.13: command not found' >&2; exit 127")
    program(bin_, "python3.12", f'exec {sys.executable} "$@"')
    assert chosen(checkout, bin_) == "[python3.12]\n"


def test_a_python_without_venv_is_passed_over(checkout: Path) -> None:
    bin_ = checkout / "bin"
    for name in ("python3.13", "python3.12", "python3.11", "python"):
        program(bin_, name, "exit 1")
    program(bin_, "python3", f'exec {sys.executable} "$@"')
    assert chosen(checkout, bin_) == "[python3]\n"


def test_without_any_python_it_says_how_to_get_one(checkout: Path) -> None:
    done = make("demo", "PYTHON=", cwd=checkout)
    assert done.returncode != 0
    assert "python3-venv" in done.stderr
    assert "PYTHON=/path/to/python3.12 demo" in done.stderr
    assert not (checkout / ".venv").exists()


def test_clean_takes_the_demos_data_and_keeps_its_videos_and_says_so(checkout: Path) -> None:
    for kept in ("demo.camera-move.mp4", "photo.camera-move-2.mp4", "var/up/state.json", "var/demo/state.json"):
        (checkout / kept).parent.mkdir(parents=True, exist_ok=True)
        (checkout / kept).touch()
    said = make("clean", cwd=checkout).stdout
    assert len([path for path in checkout.rglob("*") if path.suffix in {".mp4", ".json"}]) == 3
    for kept in ("var/up", "demo.camera-move.mp4", "photo.camera-move-2.mp4"):
        assert f"kept {kept}, " in said
    assert not (checkout / "var/demo").exists()
    assert "keeps your videos" in make("help", cwd=checkout).stdout
    (checkout / "demo.camera-move.mp4").unlink()
    (checkout / "photo.camera-move-2.mp4").unlink()
    assert "mp4" not in make("clean", cwd=checkout).stdout


def test_nothing_is_installed_twice(checkout: Path) -> None:
    venv = checkout / ".venv"
    venv.mkdir()
    for stamp in (".created", ".installed", ".developer"):
        (venv / stamp).touch()
    assert "pip" not in make("-n", "demo", cwd=checkout).stdout
    later = (venv / ".developer").stat().st_mtime + 10
    os.utime(checkout / "constraints.txt", (later, later))
    planned = make("-n", "demo", cwd=checkout).stdout
    assert "pip" in planned
    assert "-m venv" not in planned


def test_a_picture_with_spaces_reaches_the_demo_whole(checkout: Path) -> None:
    assert '"my photo.jpg"' in make("-n", "demo", "IMAGE=my photo.jpg", cwd=checkout).stdout


def test_the_constraints_name_everything_we_ask_for_and_no_torch() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["embedded"], *extras["test"], *extras["dev"]]
    from packaging.requirements import Requirement

    wanted = {Requirement(text).name.lower().replace("_", "-") for text in asked}
    assert wanted - pinned == set()
    assert "torch" not in pinned
    assert [line for line in lines if "@" in line or "file:" in line] == []


def test_the_wheel_carries_migrations_the_demo_picture_and_both_doors(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder, inside in (("migrations", "framewright/_migrations"), ("api", "api"), ("workers", "workers")):
        files = [p.relative_to(ROOT / folder).as_posix() for p in (ROOT / folder).rglob("*.[ps]*") if p.is_file()]
        missing = {f"{inside}/{name}" for name in files if not name.endswith(".pyc")} - names
        assert files
        assert missing == set()
    assert "framewright/assets/demo.jpg" in names
    assert not any("test" in Path(name).parts for name in names)
