"""Why a due step waits, as a code and a sentence: from what the database found, and what the workers say. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from framewright import catalogue
from framewright.catalogue.row import ModelRow
from framewright.errors import InsufficientVram, LicenceNotAccepted, ModelNotReady, WeightsRefused
from framewright.models.memory import has_room, too_small
from framewright.rows import Blocked, WorkerRow

MENDED_BY_COMMAND: Final = (LicenceNotAccepted.code, ModelNotReady.code, WeightsRefused.code)
"""What one command puts right where the weights are already, the least work first."""
SHORT_OF_MEMORY: Final = "insufficient_memory"
"""What a worker without a GPU says of a model that is too large for the machine's memory."""
_NAMED: Final = 5


def blocked(
    code: str | None,
    queue: str,
    engine: str,
    *,
    until: datetime | None = None,
    outcome: str | None = None,
    kind: str = "",
    workers: Sequence[WorkerRow] = (),
) -> Blocked | None:
    """Why a step waits; None when it is merely in line. `workers` count where a model is what they lack."""
    match code:
        case "no_worker":
            return Blocked("no_worker", f"No worker serves queue {queue}.")
        case "no_capability" if lacks_model(code, engine):
            serving = [worker for worker in workers if worker.alive and queue in worker.queues]
            return _no_model(queue, engine.partition(":")[2], kind, serving)
        case "no_capability":
            return Blocked("no_capability", f"No worker in queue {queue} has engine {engine}.")
        case "workers_offline":
            sentence = f"No worker with engine {engine} is online and taking work; paused and draining ones take none."
            return Blocked("workers_offline", sentence)
        case "retry_backoff":
            at = until.isoformat(timespec="seconds") if until else "once"
            return Blocked("retry_backoff", f"Retries at {at} after {outcome}.")
        case _:
            return None


def lacks_model(code: str | None, engine: str | None) -> bool:
    """Whether a step waits for a worker that can run a model: then it is worth asking what the workers say."""
    return code == "no_capability" and ":" in (engine or "")


def lacking(model: str, worker: WorkerRow) -> Blocked | None:
    """What keeps a worker from a model, as it says or as its GPU shows; None where only the weights are not there.

    The sentence is for people, its code that of an error.
    """
    if told := worker.capabilities.get("models", {}).get("refused", {}).get(model):
        return Blocked(told["code"], told["message"])
    row, vram_mb = known(model), worker.capabilities.get("vram_mb", 0)
    if row is None or not vram_mb or has_room(vram_mb, row.needs.vram_mb):
        return None
    return Blocked(InsufficientVram.code, too_small(model, row.needs.vram_mb, vram_mb))


def known(model: str) -> ModelRow | None:
    """The catalogue's row of that name."""
    return next((row for row in catalogue.rows(test_engines=True) if row.name == model), None)


def placings(row: ModelRow) -> str:
    """The memory of a GPU for each way to run a model, as words: `20 GB (whole) or 8 GB (leaves)`; empty for none."""
    profiles = row.diffusion.profiles if row.diffusion else ()
    return " or ".join(f"{one.vram_mb / 1000:g} GB ({one.name})" for one in profiles if one.vram_mb)


def gpus(queue: str, workers: Sequence[WorkerRow]) -> str:
    """The GPUs that live workers of a queue run models on, as words."""
    first = [
        worker.capabilities["gpus"][0]
        for worker in workers
        if worker.alive and queue in worker.queues and worker.capabilities.get("gpus")
    ]
    return ", ".join(sorted({f"{gpu['name']} with {gpu['vram_mb'] / 1000:.3g} GB" for gpu in first})) or "none"


def _no_model(queue: str, model: str, kind: str, workers: Sequence[WorkerRow]) -> Blocked:
    row = known(model)
    found = [(worker.id, lacking(model, worker)) for worker in workers]
    for code in MENDED_BY_COMMAND:
        for name, why in found:
            if why is not None and why.code == code:
                return Blocked(why.code, f"No worker in queue {queue} can run {model}. On {name}: {why.message}")
    if row is not None and found and all(why is not None for _, why in found):
        short = [f"On {name}: {why.message}" for name, why in found if why is not None and why.code == SHORT_OF_MEMORY]
        said = (_too_large(row, queue, kind, workers, elsewhere=bool(short)), *short[:1])
        return Blocked(InsufficientVram.code, " ".join(said))
    least = f"with a GPU of at least {row.needs.vram_mb / 1000:g} GB " if row is not None and row.needs.vram_mb else ""
    return Blocked(
        "no_capability",
        f"No worker in queue {queue} has the weights of {model}; on a machine {least}that has one, run: "
        f"framewright models pull {model}",
    )


def _too_large(row: ModelRow, queue: str, kind: str, workers: Sequence[WorkerRow], *, elsewhere: bool) -> str:
    """That all GPUs are too small for a model, and which others of its kind are not too large for the largest.

    `elsewhere`: there are workers without a GPU too. What would fit in their memory is not known here.
    """
    said, ways = [f"No worker in queue {queue} has the memory for {row.name}."], placings(row)
    if ways:
        said.append(f"It runs on a GPU of at least {ways}; there are: {gpus(queue, workers)}.")
    names = _fitting(row, queue, kind, workers)
    if names:
        said.append(f"These would fit: {', '.join(names)}.")
    elif not elsewhere:
        said.append("No other model fits.")
    return " ".join(said)


def _fitting(row: ModelRow, queue: str, kind: str, workers: Sequence[WorkerRow]) -> list[str]:
    """The largest other models of that kind that the largest GPU has room for."""
    room = max((int(worker.capabilities.get("vram_mb", 0)) for worker in workers), default=0)
    others = [
        other
        for other in catalogue.rows()
        if other.diffusion is not None
        and other.queue == queue
        and other.elsewhere is None
        and other.needs.vram_mb
        and (kind in other.kinds if kind else set(other.kinds) & set(row.kinds))
        and has_room(room, other.needs.vram_mb)
    ]
    return [other.name for other in sorted(others, key=lambda other: -other.needs.vram_mb)[:_NAMED]]
