"""Pulls the tiny model in a process of its own, which tests may kill: `puller.py HUB MODELS_DIR [LARGEST_FILE]`."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import tiny_model

from framewright.errors import FramewrightError
from framewright.models.home import Home
from framewright.models.pull import pull


def main() -> int:
    hub_url, models = sys.argv[1:3]
    if len(sys.argv) > 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
    try:
        pull(tiny_model.row(), Home(Path(models)), hub_url=hub_url, agree=lambda _: None, report=lambda _: None)
    except FramewrightError as error:
        print(f"{error.code}: {error.detail}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
