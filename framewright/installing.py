"""How an extra of this project is installed: from where it came. By its name alone, PyPI gives another project."""

from __future__ import annotations

import json
import shlex
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def extra(name: str) -> str:
    """The command that brings an extra where this process runs, or a sentence where nobody knows where it came from."""
    root = Path(__file__).resolve().parents[1]
    pip = f"{shlex.quote(sys.executable)} -m pip install"
    if (root / "pyproject.toml").is_file() and (root / "constraints.txt").is_file():
        return f"cd {shlex.quote(str(root))} && {pip} -c constraints.txt -e '.[{name}]'"
    if (url := _origin()) is not None:
        return f"{pip} 'framewright[{name}] @ {url}'"
    return (
        f"install Framewright again from where you got it, with the extra [{name}] (PyPI's framewright is another one)"
    )


def _origin() -> str | None:
    """The file or URL that it was installed from, as pip wrote it down (PEP 610)."""
    try:
        told = distribution("framewright").read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    return str(json.loads(told)["url"]) if told else None
