"""What the exit status says to a script. Stable: a number never changes its meaning."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from framewright.client import ApiError
from framewright.errors import FramewrightError


class Exit(IntEnum):
    """The statuses, with what each means as its docstring for `framewright --help`."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Exit:
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    OK = 0, "done; a job that was waited for has succeeded"
    JOB_FAILED = 1, "the job failed"
    USAGE = 2, "wrong arguments, or a file here cannot be read or written"
    UNREACHABLE = 3, "the service or the hub does not answer, or answers with a fault of its own (5xx)"
    REFUSED = 4, "the service or the hub refused (4xx): unknown id, bad parameters, no permission, over a limit"
    CANCELED = 5, "the job was canceled"
    MACHINE = 6, "this machine lacks something: `up` and `demo` could not start, or `doctor` found a fault"
    NOT_GENUINE = 7, "`verify`: the file is not signed, or is not what was signed"
    INTERRUPTED = 130, "Ctrl-C; a job that was watched goes on"
    PIPE_CLOSED = 141, "whoever read the output stopped reading"


class UsageError(FramewrightError):
    """The arguments do not make sense together, or name a file that is not there."""

    code = "usage"


class StdoutFailed(UsageError):
    """What stdout leads to takes no more, such as a full disk."""


class Interrupted(FramewrightError):
    """Ctrl-C while a job was watched; the job is left alone."""

    code = "interrupted"


@contextmanager
def written() -> Iterator[None]:
    """What is written to stdout in here has left this process at the end, or it is `StdoutFailed`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StdoutFailed(f"cannot write stdout: {error.strerror}") from error


@contextmanager
def about(name: str) -> Iterator[None]:
    """A refusal of what is done in here says what it was about: one of several files or ids."""
    try:
        yield
    except ApiError as error:
        if error.status not in {401, 403} and error.status < 500:
            error.detail = f"{name}: {error.detail}"
        raise


def of_job(status: str) -> Exit:
    """The status for a job that has ended, or one that was not waited for."""
    return {"failed": Exit.JOB_FAILED, "canceled": Exit.CANCELED}.get(status, Exit.OK)
