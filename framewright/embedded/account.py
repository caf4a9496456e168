"""The user that server processes run as: `nobody` when root starts them, else the user we already are."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framewright.errors import EmbeddedServerError


@dataclass(frozen=True, slots=True)
class Account:
    """A uid and gid, and whether children have to step down to them."""

    uid: int
    gid: int
    steps_down: bool

    @classmethod
    def for_servers(cls) -> Account:
        """Postgres refuses to run as root, so root's servers all run as `nobody`."""
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid(), steps_down=False)
        try:
            nobody = pwd.getpwnam("nobody")
        except KeyError:
            raise EmbeddedServerError(
                "there is no user `nobody` to run servers as; start as an ordinary user"
            ) from None
        return cls(nobody.pw_uid, nobody.pw_gid, steps_down=True)

    @property
    def identity(self) -> dict[str, Any]:
        """The arguments of `subprocess.Popen` that make a child this user."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.steps_down else {}

    def owns(self, path: Path) -> bool:
        """Whether `path` belongs to this user."""
        return path.stat().st_uid == self.uid

    def give(self, path: Path) -> None:
        """Make `path` this user's own; nothing to do for who runs as itself."""
        if self.steps_down:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def reaches(self, directory: Path) -> bool:
        """Whether this user may pass through every directory down to `directory`, by mode bits."""
        directory = directory.resolve()
        return not self.steps_down or all(self._passes(step) for step in (directory, *directory.parents))

    def _passes(self, directory: Path) -> bool:
        status = directory.stat()
        if status.st_uid == self.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        return bool(status.st_mode & (stat.S_IXGRP if status.st_gid == self.gid else stat.S_IXOTH))
