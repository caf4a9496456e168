"""A process that starts embedded servers, prints one JSON line about them, and waits until its stdin closes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from framewright.embedded.datadir import python_environment

SCRIPT = """
import json, os, sys
from pathlib import Path
from framewright import embedded
from framewright.errors import EmbeddedServerError
try:
    running = embedded.start(Path(sys.argv[1]), durable=False)
except EmbeddedServerError as error:
    print(json.dumps({"error": error.detail}), flush=True)
    sys.exit(1)
told = {"pids": running.pids, "guard": running.data.guard_pid, "database_url": running.database_url}
told["uid"] = os.geteuid()
print(json.dumps(told), flush=True)
sys.stdin.read()
"""


class Starter:
    """`told` is what the process said; it ends, with its servers, when `end` is called."""

    def __init__(self, home: Path, python: str = sys.executable, **popen: Any) -> None:
        environment = python_environment()
        if python != sys.executable:
            packages = [entry for entry in sys.path if entry.endswith("site-packages")]
            environment["PYTHONPATH"] = os.pathsep.join([environment["PYTHONPATH"], *packages])
        self.process = subprocess.Popen(
            [python, "-c", SCRIPT, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd="/",
            **popen,
        )
        assert self.process.stdout is not None
        self.told = json.loads(self.process.stdout.readline())

    def end(self) -> None:
        self.process.communicate()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)
        self.process.communicate()
