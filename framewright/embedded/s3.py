"""An S3 server for one machine: nanio, started as a process of its own by our own launcher."""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import signal
import sys

from framewright.embedded import binaries
from framewright.embedded.child import Command
from framewright.embedded.datadir import DataDir, python_environment
from framewright.embedded.ports import HOST
from framewright.embedded.server import Reached, Server
from framewright.errors import EmbeddedServerError
from framewright.installing import extra

_WHEEL = "nanio"
_ANSWER_S = 2.0


class S3(Server):
    """Owns `<data>/s3`; buckets are directories in `<data>/s3/objects`."""

    def __init__(self, data: DataDir, *, port: int | None = None) -> None:
        super().__init__(data, "s3", port=port)

    @property
    def url(self) -> str:
        """The endpoint; credentials are `access_key` and `secret_key`."""
        return f"http://{HOST}:{self.port}"

    @property
    def access_key(self) -> str:
        """The only access key it knows."""
        return self.data.secret("s3_access_key")

    @property
    def secret_key(self) -> str:
        """The secret of `access_key`."""
        return self.data.secret("s3_secret_key")

    def _prepare(self) -> None:
        if binaries.package_folder(_WHEEL) is None:
            raise EmbeddedServerError(
                f"no S3 server on this machine; run `{extra('embedded')}`, or set "
                "FRAMEWRIGHT_S3_ENDPOINT, FRAMEWRIGHT_S3_ACCESS_KEY and FRAMEWRIGHT_S3_SECRET_KEY to one of yours"
            )
        # Before 1.0 the minor number is what breaks.
        ours = "nanio " + ".".join(importlib.metadata.version(_WHEEL).split(".")[:2])
        writer = self.data.writer(self.name) or ours
        if writer != ours:
            raise EmbeddedServerError(
                f"{self.data.path / self.name} was written by {writer} and {ours} is installed; install "
                f"`{writer.replace(' ', '==')}.*` or choose another data directory"
            )
        self.data.keep_writer(self.name, ours)

    def _command(self, _reached: Reached) -> Command:
        account = self.data.account
        told = {
            "host": HOST,
            "port": self.port,
            "access_key": self.access_key,
            "secret_key": self.secret_key,
            "uid": account.uid if account.steps_down else None,
            "gid": account.gid if account.steps_down else None,
        }
        return Command(
            [sys.executable, "-m", "framewright.embedded.s3_server"],
            environment=python_environment(),
            cwd=self.data.folder(self.name),
            # On stdin: the environment of a process can be read by others of the same user.
            stdin=json.dumps(told).encode(),
            stop_signal=signal.SIGTERM,
            grace_s=10,
        )

    def _answers(self) -> bool:
        line = http.client.HTTPConnection(HOST, self.port, timeout=_ANSWER_S)
        try:
            line.request("GET", "/")
            # Unsigned, so refused; but refused by an S3 server.
            return line.getresponse().status == http.HTTPStatus.FORBIDDEN
        except (OSError, http.client.HTTPException):
            return False
        finally:
            line.close()
