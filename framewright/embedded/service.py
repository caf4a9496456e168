"""A process of Framewright itself (API, reconciler, worker) on this machine, kept alive like the servers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from framewright.embedded.child import Child, Command
from framewright.embedded.datadir import DataDir
from framewright.embedded.kept import Kept
from framewright.errors import EmbeddedServerError


class Service(Kept):
    """Runs `argv`; ends before the services of a lower `stage`, and all of them before the servers (stage 0)."""

    def __init__(
        self,
        data: DataDir,
        name: str,
        argv: list[str],
        *,
        environment: Mapping[str, str],
        stage: int,
        grace_s: float = 10.0,
    ) -> None:
        super().__init__(data, name)
        self.environment = environment
        # Not the caller's directory: `-m` would import what happens to lie there.
        self._command = Command(argv, environment=environment, cwd=Path("/"), stage=stage, grace_s=grace_s)

    def _launch(self) -> None:
        try:
            self._child = Child(self.data, self.name, self._command)
        except OSError as error:
            raise EmbeddedServerError(f"{self.name} cannot be started: {error.strerror or error}") from error
