"""The process behind `embedded.S3`: nanio under uvicorn in the directory it stands in.

Root cannot start it as `nobody` at once, because a Python under a private home is out of that user's reach. So it loads
everything first, shuts itself in its directory (chroot), and only then steps down.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import pkgutil
import socket
import sys
import warnings
from pathlib import Path
from typing import Any

_SLOW_S = 20.0
_PACKAGES = ("aiofiles", "anyio", "defusedxml", "nanio", "starlette", "uvicorn")
# Parts of the standard library that do something when imported, or that no server wants: the tools of those who write
# programs, windows and terminals, databases, and what asks servers of other kinds.
_NOT_WANTED = {
    *("antigravity", "ensurepip", "idlelib", "lib2to3", "test", "this", "tkinter", "turtle", "turtledemo"),
    *("cProfile", "distutils", "doctest", "pdb", "profile", "pstats", "pyclbr", "pydoc", "pydoc_data", "tabnanny"),
    *("timeit", "trace", "unittest", "venv", "zipapp", "cmd", "code", "curses", "webbrowser", "dbm", "sqlite3"),
    *("ftplib", "imaplib", "mailbox", "nntplib", "poplib", "smtplib", "telnetlib", "wsgiref", "xmlrpc", "cgi", "cgitb"),
}
# Of the packages: what starts a program, and what only their users' tests and pages have a use for.
_NO_PARTS = {"__main__", "pytest_plugin", "templating", "testclient"}


def load_everything() -> None:
    """Import the whole standard library and every part of our packages (0.5 s, 25 MB).

    All of it, because a list of what is loaded late (`_strptime`, codecs, event loops) is wrong after each upgrade.
    Parts that lack an optional library are left out, as they would be later.
    """
    warnings.simplefilter("ignore")
    for name in (*sorted(sys.stdlib_module_names - _NOT_WANTED), *_PACKAGES):
        with contextlib.suppress(ImportError):
            folders = getattr(importlib.import_module(name), "__path__", [])
            for module in pkgutil.walk_packages(folders, f"{name}.", onerror=lambda _: None):
                if module.name.rpartition(".")[2] not in _NO_PARTS:
                    with contextlib.suppress(ImportError):
                        importlib.import_module(module.name)


def step_down(objects: Path, uid: int, gid: int) -> Path:
    """Become `uid`, shut in the parent of `objects` where the system lets us; returns the new path of `objects`."""
    os.chown(objects, uid, gid, follow_symlinks=False)
    try:
        os.chroot(objects.parent)
    except PermissionError:
        # A container without CAP_SYS_CHROOT: the path itself has to be reachable then.
        pass
    else:
        os.chdir("/")
        objects = Path("/", objects.name)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    return objects


def main() -> int:
    """Serve until SIGTERM. A start that hangs writes where it hangs into the log."""
    faulthandler.dump_traceback_later(_SLOW_S)
    import uvicorn
    from nanio.app import build_app
    from nanio.auth.credentials import StaticCredentialResolver
    from nanio.config import Settings

    told: dict[str, Any] = json.load(sys.stdin)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((told["host"], told["port"]))
    except OSError as error:
        sys.stderr.write(f"cannot listen on {told['host']}:{told['port']}: {os.strerror(error.errno or 0)}\n")
        return 1
    objects = Path.cwd() / "objects"
    objects.mkdir(mode=0o700, exist_ok=True)
    if told["uid"] is not None:
        load_everything()
        objects = step_down(objects, told["uid"], told["gid"])
    app = build_app(
        Settings(
            data_dir=objects,
            host=told["host"],
            port=told["port"],
            credentials=StaticCredentialResolver({told["access_key"]: told["secret_key"]}),
            access_log=False,
        )
    )
    config = uvicorn.Config(
        app, access_log=False, log_level="warning", lifespan="off", ws="none", timeout_graceful_shutdown=5
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            faulthandler.cancel_dump_traceback_later()

    Server(config).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
