"""A process that pays for `import diffusers` once and gives birth to those that are killed and those that resume.

Reads lines of JSON `{"name", "folder", "snapshot", "mode"}` and answers each with one: `{"signal"}` for `mode` "die",
and `{"digest", "forwards", "resumed"}` for `mode` "resume". It computes nothing itself, so its children begin clean.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import diffusers
import shelves
import tiny

from workers.diffusion.stepping import Snapshot, StepControl

DIES_AFTER = 4


def die(name: str, folder: Path, path: Path) -> None:
    """Saves every step and is killed in the middle of the one after `DIES_AFTER`."""
    pipe, generator = tiny.load(folder), tiny.seeded()

    def check() -> None:
        if under.steps == DIES_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)

    def keep(under: StepControl) -> None:
        under.snapshot().save(path)

    with shelves.control(pipe, name, generator, on_step=keep, check=check) as under:
        shelves.call(pipe, name, generator)


def resume(name: str, folder: Path, path: Path) -> dict[str, Any]:
    snapshot = Snapshot.load(path)
    clip, _, forwards = shelves.resumed(tiny.load(folder), name, snapshot)
    return {"digest": clip.digest, "forwards": forwards, "resumed": snapshot.step}


def main() -> None:
    for one in tiny.FAMILIES.values():
        getattr(diffusers, one.pipeline)  # diffusers imports its pipelines when they are first asked for
    for line in sys.stdin:
        asked = json.loads(line)
        given = asked["name"], Path(asked["folder"]), Path(asked["snapshot"])
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            answer = die(*given) if asked["mode"] == "die" else resume(*given)
            os.write(writing, json.dumps(answer).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        ended = {"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else {"exit": os.WEXITSTATUS(status)}
        print(json.dumps(ended | (json.loads(said) or {} if said else {})), flush=True)


if __name__ == "__main__":
    main()
