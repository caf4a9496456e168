"""How this very command is typed, so that what is printed can be pasted."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def typed() -> str:
    """`framewright` where that runs this installation, else the shortest path to it from the current folder."""
    ours = Path(
        sys.argv[0] if Path(sys.argv[0]).name == "framewright" else Path(sys.executable).with_name("framewright")
    )
    if not ours.is_file():
        return f"{shlex.quote(sys.executable)} -m framewright.cli"
    found = shutil.which("framewright")
    if found and Path(found).samefile(ours):
        return "framewright"
    here = os.path.relpath(ours)
    here = here if os.sep in here else f".{os.sep}{here}"
    return shlex.quote(min(here, str(ours.absolute()), key=len))
