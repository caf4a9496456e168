"""From the arguments to an exit status: the one place that turns errors into words and numbers."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from framewright.cli.exits import Exit, Interrupted, StdoutFailed, UsageError
from framewright.cli.output import Out, visible
from framewright.cli.parser import parser
from framewright.cli.spelling import typed
from framewright.client import ApiError, DownloadCorrupt, Unreachable
from framewright.errors import FramewrightError, HubRefused, HubUnavailable

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status (see `Exit`)."""
    out = Out()
    try:
        args = parser().parse_args((sys.argv[1:] if argv is None else argv) or ["--help"])
        out = Out(as_json=args.json)
        module, _, function = args.run.partition(":")
        run = getattr(import_module(f"framewright.cli.{module}"), function)
        return int(run(args, out))
    except BrokenPipeError:
        _stop_writing()
        return Exit.PIPE_CLOSED
    except KeyboardInterrupt:
        return _fail(out, Interrupted("interrupted"))
    except FramewrightError as error:
        return _fail(out, error)
    except (FileNotFoundError, FileExistsError, IsADirectoryError, PermissionError) as error:
        return _fail(out, UsageError(f"{error.filename}: {error.strerror}"))
    except OSError as error:
        if error.errno not in FULL:
            raise
        return _fail(out, UsageError(f"cannot write {error.filename or 'the file'}: {error.strerror}"))


def _fail(out: Out, error: FramewrightError) -> Exit:
    status = _status(error)
    if isinstance(error, StdoutFailed):
        _stop_writing()
        out = Out()
    if out.as_json:
        out.json({"error": _document(error)})
        return status
    repeated = [field for field in error.fields if error.detail.endswith(field.detail)]
    # The body as a whole is no place that a person knows.
    where = repeated[0].pointer if len(error.fields) == 1 and repeated and repeated[0].pointer != "/body" else ""
    sentence = error.detail if not where or where in error.detail else f"{where}: {error.detail}"
    out.asides.print(visible(f"framewright: {sentence}"))
    for field in error.fields:
        if len(error.fields) == 1 and repeated:
            continue
        out.asides.print(f"  {field.pointer or '/'}: {field.detail}")
    if isinstance(error, ApiError) and error.request_id and error.status >= 500:
        out.asides.print(f"  request {error.request_id}")
    if isinstance(error, ApiError) and error.status == 401:
        out.asides.print(f"  set FRAMEWRIGHT_API_KEY or --api-key; make a key with `{typed()} keys create`")
    return status


def _status(error: FramewrightError) -> Exit:
    if isinstance(error, ApiError):
        return Exit.UNREACHABLE if error.status >= 500 else Exit.REFUSED
    kinds: tuple[tuple[type[FramewrightError], Exit], ...] = (
        (UsageError, Exit.USAGE),
        (Interrupted, Exit.INTERRUPTED),
        (Unreachable, Exit.UNREACHABLE),
        (DownloadCorrupt, Exit.UNREACHABLE),
        (HubUnavailable, Exit.UNREACHABLE),
        (HubRefused, Exit.REFUSED),
    )
    return next((status for kind, status in kinds if isinstance(error, kind)), Exit.MACHINE)


def _document(error: FramewrightError) -> dict[str, Any]:
    fields = [{"pointer": f.pointer, "code": f.code, "detail": f.detail} for f in error.fields]
    document: dict[str, Any] = {"code": error.code, "message": error.detail, "errors": fields}
    if isinstance(error, ApiError):
        document |= {"status": error.status, "request_id": error.request_id, "retryable": error.retryable}
    return document


def _stop_writing() -> None:
    """Leave nothing for the interpreter to flush into the closed pipe at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
