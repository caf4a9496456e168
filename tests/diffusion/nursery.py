"""A process that reads each model once and gives birth to those that are killed over it and those that take over.

Reads lines of JSON `{"name", "folder", "snapshot", "mode", "cut"}` and answers each with one: `{"signal"}` for `mode`
"die", and what came out, with `{"exit"}`, for `mode` "resume". It runs no model itself, so its children begin clean.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import diffusers
import shelves
import tiny

from workers.diffusion.stepping import Snapshot, StepControl


def die(pipe: Any, name: str, path: Path, cut: int) -> None:
    """Saves every step and is killed between two blocks of the step after `cut`."""
    generator, blocks = tiny.seeded(), count()

    def check() -> None:
        if under.steps == cut and next(blocks) == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def keep(under: StepControl) -> None:
        under.snapshot().save(path)

    with shelves.control(pipe, name, generator, on_step=keep, check=check) as under:
        shelves.call(pipe, name, generator)


def resume(pipe: Any, name: str, path: Path) -> dict[str, Any]:
    snapshot = Snapshot.load(path)
    clip, under, computed = shelves.resumed(pipe, name, snapshot)
    return {
        "digest": clip.digest,
        "from": snapshot.step,
        "steps": under.steps,
        "forwards": len(computed),
        "counted": [under.forwards, under.replayed],
        "denoisers": sorted(set(computed)),
    }


@lru_cache(maxsize=1)
def model(folder: str) -> Any:
    """The weights of `folder`, from disk, with all that reading them imports."""
    pipe = tiny.load(Path(folder))
    gc.freeze()  # or every child would copy what it never touches
    return pipe


def main() -> None:
    for one in tiny.FAMILIES.values():
        getattr(diffusers, one.pipeline)  # diffusers imports its pipelines when they are first asked for
    for line in sys.stdin:
        asked = json.loads(line)
        given = model(asked["folder"]), asked["name"], Path(asked["snapshot"])
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            answer = die(*given, asked["cut"]) if asked["mode"] == "die" else resume(*given)
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
