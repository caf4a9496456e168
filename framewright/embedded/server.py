"""What the three servers share: one port, one child, readiness, and the verbs that tests of faults use."""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from framewright.embedded import ports
from framewright.embedded.child import Child, Command
from framewright.embedded.datadir import DataDir
from framewright.embedded.kept import Kept
from framewright.errors import EmbeddedServerError
from framewright.installing import extra

_READY_S = 60.0
_POLL_S = 0.02
# A port that we chose can be taken between the choice and the server's bind.
_TRIES = 4


class Server(Kept):
    """One server on one data directory. The port stays the same from `start` to `start`."""

    def __init__(self, data: DataDir, name: str, *, port: int | None = None) -> None:
        """`port`: exactly this one; None takes the last one used where it is free, else any free one."""
        super().__init__(data, name)
        self._fixed = port is not None
        self._port = port

    @property
    def port(self) -> int:
        """The port that it listens on."""
        if self._port is None:
            raise EmbeddedServerError(f"{self.name} was never started")
        return self._port

    @property
    @abstractmethod
    def url(self) -> str:
        """Where to reach it, with credentials."""

    def _launch(self) -> None:
        self._prepare()
        for _ in range(_TRIES):
            if self._port is None:
                self._port = ports.choose(self.data.port(self.name))
            elif not self._await_port():
                raise ports.taken(self._port, self.name)
            self._child = self._spawn()
            if self._await_ready(self._child):
                self.data.keep_port(self.name, self._port)
                self._fixed = True
                return
            if self._fixed:
                raise ports.taken(self._port, self.name)
            self._port = None
        raise EmbeddedServerError(f"{self.name} found every port taken that it tried")

    @abstractmethod
    def _prepare(self) -> None:
        """Make what has to exist before the process starts."""

    @abstractmethod
    def _command(self, reached: Reached) -> Command:
        """The command; `reached` is how the server's account gets at its directory."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether the server does real work on its port."""

    def _port_was_taken(self, tail: str) -> bool:
        return "ddress already in use" in tail

    def _spawn(self) -> Child:
        with reach(self.data, self.data.folder(self.name)) as reached:
            command = self._command(reached)
            try:
                return Child(self.data, self.name, command)
            except OSError as error:
                raise EmbeddedServerError(
                    f"{self.name} cannot be started, {command.argv[0]}: {error.strerror or error}; reinstall its "
                    f"wheel: `{extra('embedded')} --force-reinstall`"
                ) from error

    def _await_port(self) -> bool:
        # A server that was just killed can hold its port for a moment.
        deadline = time.monotonic() + (5 if self._child is not None else 0)
        while not ports.is_free(self.port):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def _await_ready(self, child: Child) -> bool:
        """True when it answers, False when its port was taken; raises when it ended or stays silent."""
        deadline = time.monotonic() + _READY_S
        while True:
            if (code := child.exit_code) is not None:
                child.stop()
                tail = child.tail()
                if self._port_was_taken(tail):
                    return False
                how = f"signal {-code}" if code < 0 else f"status {code}"
                raise EmbeddedServerError(
                    f"{self.name} ended at start with {how}; {self._hint(tail)}; its log {child.log} ends:\n{tail}"
                )
            if self._answers():
                return True
            if time.monotonic() > deadline:
                state = child.state
                child.kill()
                raise EmbeddedServerError(
                    f"{self.name} did not answer within {_READY_S:.0f} s (its process is {state}); "
                    f"its log {child.log} ends:\n{child.tail()}"
                )
            time.sleep(_POLL_S)

    def _hint(self, tail: str) -> str:
        """What a person can do about it."""
        if "No space left on device" in tail:
            return "the disk is full, free some space"
        return "mend what the log says or choose another data directory"


@dataclass(frozen=True, slots=True)
class Reached:
    """A directory as a child may name it, and the descriptors that have to be passed on for that."""

    path: Path
    fds: tuple[int, ...] = ()


@contextmanager
def reach(data: DataDir, folder: Path) -> Iterator[Reached]:
    """How the servers' account gets at `folder`: by its path, or through an open descriptor of it.

    Root's directories often lie below one that nobody else may pass (/root, a temporary directory). Opening every
    parent up to / would be wrong, so the child inherits the open directory: /proc/self/fd/N asks no parent.
    """
    if data.account.reaches(folder.parent):
        yield Reached(folder)
        return
    if not Path("/proc/self/fd").exists():
        raise EmbeddedServerError(
            f"as root, servers run as `nobody`, who cannot reach {folder}; choose another data directory, such as "
            "/Library/Application Support/framewright"
        )
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Reached(Path(f"/proc/self/fd/{descriptor}"), (descriptor,))
    finally:
        os.close(descriptor)
