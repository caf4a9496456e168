"""The runner child: holds engines warm and runs one step at a time. It has no credentials and outlives no supervisor.

Started by `workers.child` as `python -m workers.runner <descriptor>`; everything heavy is imported here or later.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import queue
import resource
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import psutil

from framewright import catalogue
from framewright.errors import Canceled, EngineError, Yielded
from framewright.jobs import Phase, Progress
from framewright.models.home import Home
from workers.channel import CANCELED, YIELDED, Channel, ChannelClosed, Message
from workers.engines import registry
from workers.engines.run import Engine, Output, Run
from workers.verdict import judge

BETWEEN_S: Final = 0.05
"""Of reports closer together than this only the newest is sent."""
MAX_PREVIEW: Final = 1 << 20
_log = logging.getLogger(__name__)


class Runner:
    """Serves one channel until it closes. Messages in: probe, run, stop. Out: see `workers.child`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._orders: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._stops: dict[int, str] = {}
        self._engines: dict[str, Engine] = {}
        self._catalogue: str | None = None

    def serve(self) -> None:
        """Does what is asked, in order; does not return while the channel is open."""
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        self._channel.send("ready", {"pid": os.getpid()})
        while True:
            order = self._orders.get()
            if order.word == "run":
                self._run(order.facts)
            elif order.word == "probe":
                self._probe(order.facts)

    def _listen(self) -> None:
        try:
            while True:
                message = self._channel.receive()
                if message.word == "stop":
                    self._stops[int(message.facts["run"])] = str(message.facts["why"])
                else:
                    self._orders.put(message)
        except ChannelClosed:
            end()

    def _probe(self, facts: Mapping[str, Any]) -> None:
        from workers.capabilities import probe

        try:
            self._channel.send("capabilities", probe(tuple(facts["engines"]), _path(facts["ffmpeg"])))
        except Exception as error:  # noqa: BLE001 - a worker that cannot look at itself says so and serves nothing
            _log.exception("the worker could not look at itself")
            self._channel.send("capabilities", {"error": judge(error).message})

    def _run(self, facts: Mapping[str, Any]) -> None:
        number = int(facts["run"])
        for old in [other for other in self._stops if other < number]:
            del self._stops[old]
        work = _Work(self._channel, number, self._stops, Path(facts["kept"]))
        threading.Thread(target=work.send_reports, name="reports", daemon=True).start()
        try:
            made = self._made(work, facts)
            work.close()
        except BaseException as error:  # noqa: BLE001 - SystemExit of a library must not look like a crash
            work.close()
            verdict = judge(error)
            if not isinstance(error, (Canceled, Yielded)):
                _log.info("%s: ended: %s", facts.get("label"), verdict.message, exc_info=error)
            self._channel.send("ended", {"run": number, **asdict(verdict)})
        else:
            self._channel.send("done", {"run": number, "outputs": made})
        finally:
            self._stops.pop(number, None)
            gc.collect()

    def _made(self, work: _Work, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
        # Decoders and numpy: nothing that an idle worker should carry.
        from workers.media import gate

        work.stop()
        name, models = str(facts["engine"]), facts["models"]
        if self._catalogue != models["catalogue"]:
            self._catalogue = models["catalogue"]
            catalogue.install(_path(self._catalogue))
        engine = self._engines.get(name) or self._engines.setdefault(name, registry.load(name))
        run = Run(
            job=facts["job"],
            step=facts["step"],
            attempt=int(facts["attempt"]),
            params=facts["params"],
            inputs={key: _paths(value) for key, value in facts["inputs"].items()},
            workdir=Path(facts["workdir"]),
            report=work.report,
            preview=work.preview,
            checkpoint=work.checkpoint,
            resumed=work.resumed,
            stop=work.stop,
            resume=facts["resume"],
            model=facts["model"] or "",
            models=Home(Path(models["root"]), accepted=frozenset(models["accepted"])),
            profile=facts["profile"],
            ffmpeg=_path(facts["ffmpeg"]),
            max_pixels=int(facts["max_pixels"]),
        )
        outputs = engine.run(run)
        if not outputs:
            raise EngineError(f"the engine {name} made nothing")
        work.finishing = True
        checked = replace(run, stop=work.checking(outputs))
        return [
            {
                "name": output.name,
                "path": str(output.path),
                "content_type": output.content_type,
                "meta": gate.check(output, checked),
            }
            for output in outputs
        ]


class _Work:
    """What a run can tell the world, and hear from it. Once `finishing`, only a cancel stops it."""

    def __init__(self, channel: Channel, number: int, stops: Mapping[int, str], kept: Path) -> None:
        self._channel = channel
        self._number = number
        self._stops = stops
        self._kept = kept
        self._reporting = threading.Lock()
        self._latest: Progress | None = None
        self._due = threading.Event()
        self._over = threading.Event()
        self._checkpoints = 0
        self._checked = 0
        self.finishing = False

    def report(self, progress: Progress) -> None:
        with self._reporting:
            first = self._latest is None
            self._latest = progress
        if first:
            self._due.set()

    def send_reports(self) -> None:
        """Sends the newest report, at most one in `BETWEEN_S`, until finished; also the last before a long silence."""
        with contextlib.suppress(ChannelClosed):
            while not self._over.wait(BETWEEN_S):
                self._due.wait()
                self._due.clear()
                self.flush()

    def flush(self) -> None:
        """Sends what was reported and not sent."""
        with self._reporting:
            progress, self._latest = self._latest, None
            if progress is not None:
                self._channel.send("progress", {"run": self._number, "progress": asdict(progress)})

    def close(self) -> None:
        """Sends the last report; nothing after it."""
        self._over.set()
        self._due.set()
        self.flush()

    def preview(self, image: bytes, mime: str, width: int, height: int) -> None:
        if len(image) <= MAX_PREVIEW:
            self._channel.send("preview", {"run": self._number, "mime": mime, "w": width, "h": height}, image)

    def checkpoint(self, state: dict[str, Any], files: list[Path]) -> None:
        self._checkpoints += 1
        place = self._kept / str(self._checkpoints)
        try:
            place.mkdir(parents=True)
            # Taken away, because the engine goes on and may write them anew before they are uploaded.
            kept = [str(file.rename(place / file.name)) for file in files]
        except OSError as error:
            # It costs work later, never the step.
            _log.warning("a checkpoint is not kept: %s", error.strerror)
            shutil.rmtree(place, ignore_errors=True)
            return
        self._channel.send("checkpoint", {"run": self._number, "state": state, "files": kept})

    def resumed(self, step: int, exact: bool) -> None:
        self._channel.send("resumed", {"run": self._number, "step": step, "exact": exact})

    def stop(self) -> None:
        why = self._stops.get(self._number)
        if why == CANCELED:
            raise Canceled("the run was told to stop")
        if why == YIELDED and not self.finishing:
            raise Yielded("the worker drains")

    def checking(self, outputs: list[Output]) -> Callable[[], None]:
        """What the gate calls for every frame of these outputs."""
        frames = max(1, sum(output.expect.frames for output in outputs if output.expect))

        def look() -> None:
            self._checked += 1
            self.stop()
            self.report(Progress(fraction=min(1.0, self._checked / frames), phase=Phase.CHECKING))

        return look


class _ToSupervisor(logging.Handler):
    """Sends log records to the supervisor, which masks and formats them."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(logging.INFO)
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)[:8000]
        try:
            self._channel.send("log", {"level": record.levelno, "name": record.name, "text": text})
        except (ChannelClosed, ValueError):
            self.handleError(record)


def end() -> None:
    """Ends this process and everything it started, at once. Nobody is left to hear about it."""
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.Error:
            continue
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _path(value: str | None) -> Path | None:
    return Path(value) if value else None


def _paths(value: str | list[str]) -> Path | list[Path]:
    return [Path(item) for item in value] if isinstance(value, list) else Path(value)


def main() -> None:
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    # The supervisor decides when to end. Handlers, not SIG_IGN, which every ffmpeg would inherit.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    logging.basicConfig(level=logging.INFO, handlers=[_ToSupervisor(channel)], format="%(message)s")
    try:
        Runner(channel).serve()
    except ChannelClosed:
        end()


if __name__ == "__main__":
    main()
