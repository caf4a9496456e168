"""What an exception says about an attempt: the outcome it is charged as, and a sentence that leaks nothing."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from framewright.errors import (
    BadInput,
    Canceled,
    EngineError,
    FramewrightError,
    InsufficientVram,
    InvalidOutput,
    LicenceNotAccepted,
    ModelNotReady,
    WeightsRefused,
    Yielded,
)
from framewright.jobs import Outcome

LONGEST: Final = 500
_DISK: Final = {
    errno.ENOSPC: "the scratch disk is full",
    errno.EDQUOT: "the scratch disk quota is used up",
    errno.EROFS: "the scratch disk is read-only",
    errno.EIO: "the scratch disk has read or write errors",
    errno.EMFILE: "the worker has no file descriptors left",
    errno.ENFILE: "the machine has no file descriptors left",
}
_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_NAME: Final = r"[^\s/'\"<>:;,()\[\]]+"
_PATH: Final = re.compile(
    r"(?<=')~?/[^'\n]*/[^'\n]*(?=')"
    r'|(?<=")~?/[^"\n]*/[^"\n]*(?=")'
    # Without quotes, a name may have one space.
    rf"|(?<![\w.])~?(?:/{_NAME}){{2,}}/?(?: {_NAME}(?:/{_NAME})+/?)*"
    r"|[A-Za-z]:\\\S+"
)
_SECRET: Final = re.compile(
    r"(?i)\b(?:fw_live_\w+|whsec_\S+|(?:password|passwd|secret|token|api[_-]?key|authorization)\s*[=:]\s*\S+)"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an attempt ended; `field` is the request's field that is to blame for bad input (a JSON pointer)."""

    outcome: Outcome
    message: str
    field: str | None = None


_NO_MEMORY: Final = Verdict(Outcome.HOST_OOM, "the step needed more memory than this worker has")


def judge(error: BaseException) -> Verdict:
    """The verdict on whatever an engine, a transfer or the disk raised."""
    for cause in _chain(error):
        if verdict := _of_ours(cause) or _of_system(cause) or _of_gpu(cause):
            return verdict
    if isinstance(error, EngineError):
        return Verdict(Outcome.APP_ERROR, sentence(error.detail))
    if isinstance(error, FramewrightError):
        outcome = Outcome.TRANSIENT_INFRA if error.retryable else Outcome.APP_ERROR
        return Verdict(outcome, sentence(error.detail))
    return Verdict(Outcome.APP_ERROR, sentence(f"{type(error).__name__}: {error}"))


def sentence(text: str) -> str:
    """`text` on one line of at most 500 characters, without addresses, paths and secrets."""
    text = _SECRET.sub("(hidden)", _ADDRESS.sub("(address)", text))
    text = _PATH.sub("(path)", text)
    text = "".join(character if character.isprintable() else " " for character in text)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _of_ours(error: BaseException) -> Verdict | None:
    match error:
        case BadInput():
            return Verdict(Outcome.BAD_INPUT, sentence(error.detail), error.field)
        case InvalidOutput():
            return Verdict(Outcome.INVALID_OUTPUT, sentence(error.detail))
        case Yielded():
            return Verdict(Outcome.YIELDED, sentence(error.detail))
        case Canceled():
            return Verdict(Outcome.CANCELED, sentence(error.detail))
        case ModelNotReady() | WeightsRefused() | LicenceNotAccepted() | InsufficientVram():
            return Verdict(Outcome(error.code), sentence(error.detail))
    return None


def _of_system(error: BaseException) -> Verdict | None:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return _NO_MEMORY
    if isinstance(error, OSError) and error.errno in _DISK:
        return Verdict(Outcome.TRANSIENT_INFRA, _DISK[error.errno])
    return None


def _of_gpu(error: BaseException) -> Verdict | None:
    # By name, because only some runners have torch.
    if type(error).__name__ == "OutOfMemoryError" and type(error).__module__.startswith("torch"):
        return Verdict(Outcome.GPU_OOM, "the step needed more GPU memory than this worker has")
    if isinstance(error, RuntimeError) and any(word in str(error) for word in ("CUDA error", "HIP error", "cuDNN")):
        return Verdict(Outcome.GPU_ERROR, sentence(f"{type(error).__name__}: {error}"))
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from or while handling, outermost first."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
