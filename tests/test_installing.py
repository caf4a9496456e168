"""What brings an extra is a command that can be typed, and never a stranger's package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import framewright
from framewright import installing

ROOT = Path(framewright.__file__).parents[1]
_ASK = "import sys; sys.path.insert(0, sys.argv[1]); from framewright import installing; print(installing.extra('gpu'))"


def asked(folder: Path) -> str:
    """What it says when it lies in that folder."""
    done = subprocess.run([sys.executable, "-I", "-c", _ASK, folder], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The package alone, as in a folder of installed packages."""
    (tmp_path / "framewright").mkdir()
    for name in ("__init__.py", "installing.py"):
        shutil.copy(ROOT / "framewright" / name, tmp_path / "framewright" / name)
    return tmp_path


def test_in_a_checkout_it_is_installed_from_the_checkout() -> None:
    said = installing.extra("gpu")
    assert said == f"cd {ROOT} && {sys.executable} -m pip install -c constraints.txt -e '.[gpu]'"


def test_elsewhere_it_is_installed_from_where_the_project_came(installed: Path) -> None:
    about = installed / "framewright-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: framewright\nVersion: 0.1.0\n")
    (about / "direct_url.json").write_text('{"url": "https://example.org/framewright-0.1.0.whl", "archive_info": {}}')
    wanted = "pip install 'framewright[gpu] @ https://example.org/framewright-0.1.0.whl'"
    assert asked(installed).endswith(wanted)


def test_where_nobody_knows_it_says_so(installed: Path) -> None:
    about = installed / "framewright-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: framewright\nVersion: 0.1.0\n")
    assert asked(installed).startswith("install Framewright again from where you got it, with the extra [gpu]")


def test_nothing_here_says_to_install_it_by_its_name_alone() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    code = [path for part in ("framewright", "api", "workers") for path in (ROOT / part).rglob("*.py")]
    by_name = re.compile(r"""pip install (-\S+ )*['"]?framewright(?!\[\w+\] @ )""")
    assert [path.name for path in (*pages, *code) if by_name.search(path.read_text())] == []
