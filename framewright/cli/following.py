"""Watch one job to its end and show how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from framewright.cli.exits import Interrupted
from framewright.cli.output import Out, seconds_text
from framewright.cli.progress import Bar, bar
from framewright.cli.spelling import typed
from framewright.client import Client, Event, Job


class JobBar:
    """Turns the events of one job into what its bar says."""

    def __init__(self, shown: Bar, job: Job, clock: Callable[[], float] = time.monotonic) -> None:
        self.shown = shown
        self.clock = clock
        self.status = job.status
        self.step: str | None = None
        self.fraction = job.progress.fraction if job.progress else 0.0
        self.since: tuple[float, int] | None = None
        self.phase: str | None = None
        self.moving = False

    def on(self, event: Event) -> None:
        """Show one event."""
        data = event.data
        if event.type == "progress":
            self._progress(data)
        elif event.type == "snapshot":
            self._snapshot(data)
        elif event.type == "step_started":
            self._step_started(data)
        elif event.type == "step_succeeded":
            self.moving = False
        elif event.type == "attempt_ended":
            self.moving = False
            if data.get("outcome") != "succeeded":
                self.shown.note(_ended(data))
        elif event.terminal:
            self.status, self.phase, self.step = event.type, None, None
            self.fraction = 1.0 if event.type == "succeeded" else self.fraction
            self._show("")

    def _step_started(self, data: Mapping[str, Any]) -> None:
        # A job of one step calls it `main`, which tells nobody anything.
        self.step = None if data.get("name") == "main" else _text(data.get("name"))
        if self.moving:
            # Progress goes a faster way than durable events, and was here first.
            return
        self.status, self.phase, self.since = "running", None, None
        attempt = int(data.get("attempt") or 1)
        again = f", attempt {attempt}" if attempt > 1 else ""
        self._show(f"on {data.get('worker', 'a worker')}{again}")

    def _progress(self, data: Mapping[str, Any]) -> None:
        self.status, self.moving = "running", True
        if data.get("phase") != self.phase:
            self.phase, self.since = _text(data.get("phase")), None
        self.fraction = float(data.get("fraction") or 0.0)
        self._show(", ".join(self._counts(data)))

    def _counts(self, data: Mapping[str, Any]) -> list[str]:
        """Frames or steps so far, how fast, and how long it may still take."""
        done, total = data.get("frames_done"), data.get("frames_total")
        noun = "frames"
        if done is None:
            done, total, noun = data.get("step"), data.get("steps"), "steps"
        parts = []
        if isinstance(done, int):
            parts.append(f"{done}/{total} {noun}" if total else f"{done} {noun}")
            now = self.clock()
            if self.since is None or done < self.since[1]:
                self.since = (now, done)
            elif done > self.since[1] and now > self.since[0]:
                parts.append(f"{(done - self.since[1]) / (now - self.since[0]):.1f} {noun}/s")
        left = (data.get("eta") or {}).get("seconds_p50")
        if isinstance(left, int | float) and left >= 0.5:
            parts.append(f"about {seconds_text(left)} left")
        return parts

    def _snapshot(self, data: Mapping[str, Any]) -> None:
        job = Job.of(data)
        self.status, self.phase = job.status, job.phase
        self.fraction = job.progress.fraction if job.progress else self.fraction
        self._show(waiting_text(job))

    def _show(self, text: str) -> None:
        label = " ".join(part for part in (self.status, self.step, self.phase) if part)
        self.shown.update(self.fraction, text, label=label)


def follow(client: Client, job: Job, out: Out) -> Job:
    """Watch until the job has ended; returns it as it ended. Ctrl-C is `Interrupted` and leaves the job alone."""
    if job.ended:
        return job
    try:
        with bar(out, job.status) as shown:
            lines = JobBar(shown, job)
            if text := waiting_text(job):
                shown.note(text)
            for event in client.jobs.watch(job.id):
                lines.on(event)
        return client.jobs.get(job.id)
    except KeyboardInterrupt:
        raise Interrupted(f"{job.id} goes on; see it with `{typed()} jobs watch {job.id}`") from None


def waiting_text(job: Job) -> str:
    """Why a job does not run yet, as far as the service says."""
    if job.blocked_reason:
        return job.blocked_reason
    return f"{job.queue_position} in line" if job.queue_position else ""


def _ended(data: Mapping[str, Any]) -> str:
    retry_in = data.get("retry_in_s")
    then = "" if data.get("final") or retry_in is None else f"; tries again in {seconds_text(float(retry_in))}"
    return f"attempt {data.get('attempt')} ended: {data.get('outcome')}: {data.get('message', '')}{then}"


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
