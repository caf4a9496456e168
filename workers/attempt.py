"""One attempt at one step, from its claim to its commit or release, and no way to end that is neither."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from framewright import lifecycle
from framewright.database import Database
from framewright.doorbells import Ringer
from framewright.errors import DatabaseUnavailable
from framewright.events import Live
from framewright.jobs import Artifact, Claim, Outcome, Progress
from framewright.models.home import Home
from framewright.provenance.credentials import Credentials
from framewright.settings import Settings
from framewright.storage import Storage
from workers import aside, provenance, transfer
from workers.channel import CANCELED, YIELDED, Message
from workers.checkpoints import Checkpoints, restore
from workers.child import Child, Gone
from workers.halt import Halt, Why
from workers.lease import Lease
from workers.scratch import Place, Scratch
from workers.track import Track
from workers.verdict import Verdict, judge

_AGAIN_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
FLUSH_S: Final = 30.0
"""How long the last checkpoint of a step that is given back may take to be stored."""
_STOPPED: Final = frozenset({Outcome.CANCELED, Outcome.YIELDED})
_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tools:
    """What every attempt of this worker shares."""

    settings: Settings
    db: Database
    storage: Storage
    live: Live
    ringer: Ringer
    scratch: Scratch
    credentials: Credentials | None


class Ended(Exception):
    """The attempt ended without success, for the reason that `verdict` gives."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.message)
        self.verdict = verdict


class Attempt:
    """Runs `claim` on the child that `runner` answers; the number tells this run's messages from those of others.

    `runner` is asked while the lease is kept, because making room for another model can take a while.
    """

    def __init__(self, tools: Tools, claim: Claim, runner: Callable[[], Child], number: int) -> None:
        self.claim = claim
        self._tools, self._runner, self._number = tools, runner, number
        self._child: Child | None = None
        self.verdict: Verdict | None = None
        """How it ended, unless with a commit."""
        settings = tools.settings
        self._track = Track(lambda progress: tools.live.progress(claim, progress))
        self._hard = time.monotonic() + claim.timeout_s
        self._stall_s = claim.stall_s
        self.halt = Halt(
            cancel_grace_s=settings.cancel_grace_s, drain_grace_s=settings.drain_grace_s, on_ask=self._asked
        )
        self._lease = Lease(
            tools.db,
            claim,
            self._track,
            lease_s=settings.lease_s,
            renew_s=settings.renew_s,
            on_lost=lambda: self.halt.ask(Why.LOST),
            on_yield=lambda: self.halt.ask(Why.YIELD),
        )

        self._checkpoints = Checkpoints(
            tools.storage, claim, self._lease, every_s=settings.renew_s, canceled=self._over
        )

    def hint(self) -> None:
        """Something happened to the job: ask the database now rather than at the next renewal."""
        self._lease.hurry()

    def run(self) -> None:
        """Works until the step is committed, released or lost. Raises nothing."""
        claim = self.claim
        _log.info("%s: attempt %d", claim.label, claim.attempt)
        # The scratch is cleared last: nobody should wait for that to hear how the attempt ended.
        with self._lease, ExitStack() as last:
            try:
                place = last.enter_context(self._tools.scratch.attempt(claim.fence.hex))
                self._commit(self._made(place))
            except Ended as ended:
                self._release(ended.verdict)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is how the attempt ended
                self._release(self._judged(error))

    def _judged(self, error: Exception) -> Verdict:
        verdict = judge(error)
        if verdict.outcome in _STOPPED:
            return self._stopped() if self.halt.over or not self._late() else self._timed_out()
        if verdict.outcome is Outcome.APP_ERROR:
            _log.error("%s: failed", self.claim.label, exc_info=error)
        return verdict

    # --- the run

    def _made(self, place: Place) -> list[Artifact]:
        storage, claim = self._tools.storage, self.claim
        with self._track.ours():
            inputs = transfer.download(storage, claim, place.inputs, self._track, self._over)
            resume = aside.run(lambda stopped: restore(storage, claim, place.work, stopped), self._over)
        outputs = self._rendered(place, inputs, resume)
        with self._track.ours():
            outputs = provenance.signed(
                self._tools.credentials,
                claim,
                outputs,
                inputs,
                place.work,
                track=self._track,
                canceled=self._over,
                tsa_url=self._tools.settings.c2pa_tsa_url,
            )
            return aside.run(
                lambda stopped: transfer.upload(
                    storage, claim, outputs, place.work, track=self._track, canceled=stopped
                ),
                self._over,
            )

    def _over(self) -> bool:
        return self.halt.over or self._late()

    def _late(self) -> bool:
        return time.monotonic() >= self._hard

    def _rendered(
        self, place: Place, inputs: transfer.Paths, resume: Mapping[str, Any] | None
    ) -> Sequence[Mapping[str, Any]]:
        with self._track.ours():
            child = self._child = self._runner()
        child.order("run", self._order(place, inputs, resume) | {"profile": child.profile})
        running = True
        try:
            if self.halt.why is not None:
                # It was said before there was anybody to pass it on to.
                self._asked(self.halt.why)
            while True:
                message = self._next(child)
                running = message.word not in {"done", "ended"}
                if message.word == "done":
                    outputs: list[dict[str, Any]] = message.facts["outputs"]
                    return outputs
                if message.word == "ended":
                    raise Ended(self._ended(message, child))
                self._hear(message)
        finally:
            self._checkpoints.close()
            if running:
                child.kill()

    def _order(self, place: Place, inputs: transfer.Paths, resume: Mapping[str, Any] | None) -> dict[str, Any]:
        claim, settings = self.claim, self._tools.settings
        return {
            "run": self._number,
            "label": claim.label,
            "job": claim.job_id.hex,
            "step": claim.step_name,
            "attempt": claim.attempt,
            "engine": claim.engine.partition(":")[0],
            "model": claim.model,
            "models": {
                "root": str(Home.of(settings).root),
                "accepted": settings.accepted_licences,
                "catalogue": str(settings.catalogue) if settings.catalogue else None,
            },
            "params": dict(claim.params),
            "inputs": inputs,
            "workdir": str(place.work),
            "kept": str(place.kept),
            "resume": None if resume is None else dict(resume),
            "ffmpeg": str(settings.ffmpeg) if settings.ffmpeg else None,
            "max_pixels": settings.max_pixels,
        }

    def _next(self, child: Child) -> Message:
        """The next message of this run; `Ended` when the runner dies, hangs, or takes too long."""
        while True:
            try:
                item = child.inbox.get(timeout=max(0.0, self._patience_ends() - time.monotonic()))
            except queue.Empty:
                self._out_of_patience()
                continue
            if isinstance(item, Gone):
                raise Ended(self._died(item))
            if item is not None and item.facts.get("run") == self._number:
                return item

    def _patience_ends(self) -> float:
        return min(self._hard, self._track.quiet_until(self._stall_s), self.halt.deadline)

    def _out_of_patience(self) -> None:
        now = time.monotonic()
        if now >= self.halt.deadline:
            raise Ended(Verdict(Outcome.YIELDED, "the worker drains and the step reached no boundary in time"))
        if now >= self._hard:
            raise Ended(self._timed_out())
        if now >= self._track.quiet_until(self._stall_s):
            raise Ended(Verdict(Outcome.STALLED, f"the step made no progress for {now - self._track.moved_at:.0f} s"))

    def _timed_out(self) -> Verdict:
        phase = self._track.snapshot.phase
        return Verdict(Outcome.TIMEOUT, f"the step took longer than {self.claim.timeout_s:g} s; it was {phase}")

    def _died(self, gone: Gone) -> Verdict:
        if self.halt.yielding:
            return self._stopped()
        return Verdict(Outcome.HOST_OOM if gone.out_of_memory else Outcome.RUNNER_LOST, gone.sentence)

    def _ended(self, message: Message, child: Child) -> Verdict:
        verdict = Verdict(Outcome(message.facts["outcome"]), message.facts["message"], message.facts["field"])
        if verdict.outcome in _STOPPED:
            self._checkpoints.flush(min(FLUSH_S, max(0.0, self.halt.deadline - time.monotonic())))
            return self._stopped()
        if verdict.outcome in (Outcome.GPU_ERROR, Outcome.GPU_OOM, Outcome.HOST_OOM):
            # What such an error leaves behind in the process is anybody's guess.
            child.kill()
        return verdict

    def _stopped(self) -> Verdict:
        if self.halt.why is None:
            # It costs something, or the step would stop and start for ever.
            return Verdict(Outcome.APP_ERROR, "the engine stopped although nobody told it to")
        return Verdict(Outcome.YIELDED, "the worker drains")

    def _hear(self, message: Message) -> None:
        facts = message.facts
        match message.word:
            case "progress":
                self._track.report(Progress.of(facts["progress"]))
            case "preview":
                self._tools.live.preview(self.claim, message.blob, facts["mime"], facts["w"], facts["h"])
            case "resumed":
                step, exact = int(facts["step"]), bool(facts["exact"])
                self._answered(lambda: lifecycle.resumed(self._tools.db, self.claim, step, exact=exact))
            case "checkpoint":
                self._checkpoints.offer(facts["state"], [Path(file) for file in facts["files"]])

    def _asked(self, why: Why) -> None:
        child = self._child
        if child is not None:
            child.order("stop", {"run": self._number, "why": CANCELED if why is Why.LOST else YIELDED})
            child.nudge()

    # --- its end

    def _commit(self, artifacts: Sequence[Artifact]) -> None:
        stored = self._checkpoints.began
        # Even if the lease seems lost by now: an earlier try may have been the commit that ended it.
        done = self._answered(lambda: lifecycle.complete(self._tools.db, self.claim, artifacts, checkpoints=stored))
        if done is None:
            return
        self._lease.close()
        _log.info("%s: commit answered %s", self.claim.label, done.answer)
        self._tell(done.queues, done.seq)
        if done.answer != "fenced":
            self._checkpoints.discard()

    def _release(self, verdict: Verdict) -> None:
        claim, self.verdict = self.claim, verdict
        if self.halt.lost:
            _log.info("%s: the lease is lost; nothing of this attempt counts", claim.label)
            return
        released = self._answered(
            lambda: lifecycle.release(
                self._tools.db, claim, verdict.outcome, message=verdict.message, field=verdict.field
            )
        )
        if released is None:
            return
        self._lease.close()
        _log.info("%s: %s (%s): %s", claim.label, verdict.outcome, released.answer, verdict.message)
        self._tell(released.queues, released.seq)

    def _answered(self, verb: Callable[[], T]) -> T | None:
        """The verb's answer, however long the database is away; None when the worker must go before that."""
        tried = 0
        while True:
            try:
                return verb()
            except DatabaseUnavailable as error:
                _log.warning("%s: %s; trying again", self.claim.label, error.detail)
            pause = time.monotonic() + _AGAIN_S[min(tried, len(_AGAIN_S) - 1)]
            tried += 1
            while (left_s := pause - time.monotonic()) > 0 and not self.halt.leaving:
                time.sleep(min(left_s, 0.1))
            if self.halt.leaving:
                return None

    def _tell(self, queues: Sequence[str], seq: int) -> None:
        if seq:
            self._tools.live.poke(self.claim.job_id, self.claim.tenant_id, seq)
        for name in queues:
            self._tools.ringer.ring(name)
