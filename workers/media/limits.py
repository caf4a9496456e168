"""Becomes a command under resource limits: `python -I -S limits.py cpu=60 as=4294967296 -- ffmpeg ...`.

A program of its own, because setting limits between fork and exec is not safe in a process that has threads. It
imports nothing of the project, so it starts in about 10 ms. A limit that the system does not know, or does not let
this user set, is left as it is.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping

KINDS: Mapping[str, int] = {
    "as": resource.RLIMIT_AS,
    "core": resource.RLIMIT_CORE,
    "cpu": resource.RLIMIT_CPU,
    "fsize": resource.RLIMIT_FSIZE,
    "nofile": resource.RLIMIT_NOFILE,
}


def main() -> None:
    split = sys.argv.index("--")
    for limit in sys.argv[1:split]:
        name, _, value = limit.partition("=")
        hard = resource.getrlimit(KINDS[name])[1]
        most = int(value) if hard == resource.RLIM_INFINITY else min(int(value), hard)
        try:
            resource.setrlimit(KINDS[name], (most, most))
        except (ValueError, OSError):
            continue  # macOS refuses some address-space limits
    command = sys.argv[split + 1 :]
    os.execv(command[0], command)  # noqa: S606 - becoming it is the point


if __name__ == "__main__":
    main()
