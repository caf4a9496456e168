"""The steps of a pipeline: which waits for which, and an order in which they can run. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from framewright.params import StepRequest
from framewright.refusals import refuse


def needs(steps: list[StepRequest]) -> dict[str, tuple[str, ...]]:
    """Which steps each step waits for: those it reads from and those it names in `after`."""
    names = [step.name for step in steps]
    found: dict[str, tuple[str, ...]] = {}
    for index, step in enumerate(steps):
        if step.name in found:
            refuse(f"/steps/{index}/name", "duplicate", "another step has this name")
        read = [
            (f"/steps/{index}/input{place}", ref[1:])
            for refs in step.input.slots().values()
            for place, ref in refs
            if ref.startswith("@")
        ]
        for place, name in read + [(f"/steps/{index}/after/{i}", name) for i, name in enumerate(step.after)]:
            if name not in names:
                refuse(place, "unknown_step", "no step has this name")
            if name == step.name:
                refuse(place, "cycle", "a step cannot wait for itself")
        found[step.name] = tuple(dict.fromkeys([name for _, name in read] + step.after))
    return found


def order(steps: list[StepRequest], waits: Mapping[str, tuple[str, ...]]) -> list[int]:
    """Indexes of the steps, each after all it needs and otherwise as written; a cycle is refused."""
    waiting, done, found = list(range(len(steps))), set[str](), list[int]()
    while waiting:
        ready = next((i for i in waiting if done.issuperset(waits[steps[i].name])), None)
        if ready is None:
            refuse(f"/steps/{waiting[0]}", "cycle", "these steps wait for each other")
        waiting.remove(ready)
        found.append(ready)
        done.add(steps[ready].name)
    return found
