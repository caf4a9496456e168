"""How tests start the command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from framewright.embedded.datadir import python_environment

COMMAND = (sys.executable, "-m", "framewright.cli")


def clean_environment(home: Path) -> dict[str, str]:
    """This environment without what would lead a command to a service of the developer."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FRAMEWRIGHT_", "XDG_"))}
    return kept | {"HOME": str(home), "PYTHONPATH": python_environment()["PYTHONPATH"]}
