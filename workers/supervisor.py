"""The supervisor: claims steps for this worker one after another, on a doorbell or without, and runs them."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

from framewright import catalogue, ids, lifecycle
from framewright.database import Database
from framewright.doorbells import Ringer
from framewright.errors import DatabaseUnavailable
from framewright.events import HintListener, Live
from framewright.jobs import UNFIT, Claim, Outcome
from framewright.models.home import Home
from framewright.provenance.trial import tried
from framewright.rows import Control, Presence
from framewright.settings import Settings
from framewright.storage import Storage
from workers import placement, presence
from workers.attempt import Attempt, Tools
from workers.child import Child
from workers.halt import Why
from workers.placement import TooTight
from workers.scratch import Scratch
from workers.shelf import Refusal, Shelf
from workers.verdict import Verdict
from workers.warm import Warm

RESTART_S: Final = (0.0, 0.0, 1.0, 5.0, 15.0, 30.0)
"""Pauses before a runner is started again when the last ones died without having run anything."""
START_S: Final = 120.0
"""A runner that takes longer to start and to look at the machine is given up."""
AGAIN_S: Final = 120.0
"""Between two looks at a machine whose GPUs could not be told."""
_AWAY_S: Final = 2.0
WEIGHTS: Final = ":"
"""In the engine of a step that needs a model's weights: `diffusion:wan-2.1-t2v-1.3b`."""
_log = logging.getLogger(__name__)


class Supervisor:
    """One worker: a claim loop in a thread of its own, a warm runner child, and what tells them to stop.

    A runner holds one model at most. A step of another one gets a new runner, and the old one is ended first, because
    not all memory of a model comes back otherwise. A step without weights (a camera move, an encode) runs in whichever
    runner there is, beside the model; one that runs out of memory there ends the runner, and its next try finds room.

    Needs neither Celery nor Redis: a doorbell (`hand_over`) only makes the next claim come sooner.
    """

    def __init__(self, settings: Settings) -> None:
        self.name = presence.worker_id(settings)
        catalogue.install(settings.catalogue)
        credentials = tried(settings)
        self._settings = settings
        self._scratch = Scratch(settings.scratch_dir)
        self._db = Database(settings.database_url.get_secret_value(), application=f"worker {self.name}"[:60])
        self._tools = Tools(
            settings, self._db, Storage(settings), Live(settings), Ringer(settings), self._scratch, credentials
        )
        self._engines = presence.candidates(settings)
        self._shelf = Shelf(settings)
        self._warm = Warm(int(settings.host_cache_gb * 1e9))
        self._capabilities: dict[str, Any] = {}
        self._looks: Child | None = None
        self._looked_at = 0.0
        self._changed = threading.Condition()
        self._bell = True  # look for work at once
        self._rounds_begun = self._rounds_ended = 0
        self._attempt: Attempt | None = None
        self._stopping: Why | None = None
        self._control: Control = "run"
        self._child: Child | None = None
        self._useless = 0
        self._runs = self._runs_before = 0
        self._tight: TooTight | None = None
        self._ended = False
        self._idle_since = time.monotonic()
        self._heartbeat = presence.Heartbeat(self._db, settings, self._described, self._controlled)
        self._hints = HintListener(settings, self._hinted)
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    # --- what others may ask of it

    def start(self) -> None:
        """Starts the runner and the claim loop; returns at once."""
        swept = self._scratch.sweep()
        if swept:
            _log.info("removed %d scratch directories of dead workers", swept)
        self._thread.start()
        self._heartbeat.start()
        self._hints.start()
        self._warm.start()

    def answer(self, forward: Callable[[], None]) -> None:
        """A doorbell rang: looks for work and returns when that round is over.

        While a step is running, or nothing may be claimed, `forward` passes the doorbell on to a neighbour, and the
        caller is held until this worker is free again, so that it takes no further ones.
        """
        with self._changed:
            target = self._rounds_begun + 1
            free = self._free()
            if free:
                self._bell = True
                self._changed.notify_all()
        if free:
            with self._changed:
                self._changed.wait_for(lambda: self._rounds_ended >= target or self._ended)
            return
        forward()
        with self._changed:
            self._changed.wait_for(lambda: self._free() or self._ended)

    def drain(self) -> None:
        """Claims nothing more, gives the step in hand back at its next boundary, then ends."""
        self._stop(Why.YIELD)

    def hurry(self) -> None:
        """As `drain`, without waiting for a boundary."""
        self._stop(Why.YIELD_NOW)

    def join(self, timeout_s: float | None = None) -> bool:
        """Waits until the supervisor has ended; False if it takes longer."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def busy(self) -> bool:
        """Whether a step is running."""
        return self._attempt is not None

    @property
    def control(self) -> Control:
        """What the operator last asked for."""
        return self._control

    @property
    def runner_pid(self) -> int | None:
        """The process number of the runner that lives, if any."""
        child = self._child
        return child.pid if child is not None and not child.gone.is_set() else None

    # --- the claim loop

    def _run(self) -> None:
        try:
            while self._stopping is None:
                try:
                    self._wait_for_bell()
                    self._round()
                    self._unload_if_idle()
                except Exception:  # noqa: BLE001 - nothing may end this loop but an order to stop
                    _log.exception("a round failed")
                    self._pause(1.0)
        finally:
            self._close()

    def _wait_for_bell(self) -> None:
        idle_s = self._settings.idle_claim_s * random.uniform(0.8, 1.0)  # noqa: S311 - spreads the fleet
        if self._resident is not None:
            idle_s = min(idle_s, max(0.0, self._unload_at - time.monotonic()))
        with self._changed:
            self._changed.wait_for(lambda: self._bell or self._stopping is not None, idle_s)
            self._bell = False
            self._rounds_begun += 1

    def _round(self) -> None:
        try:
            while self._stopping is None and self._control == "run":
                if self._ready_child() is None:
                    return
                claim = self._claimed()
                if claim is None:
                    return
                self._execute(claim)
                self._warm.go_on()
        except DatabaseUnavailable as error:
            _log.warning("cannot look for work: %s", error.detail)
            self._pause(min(_AWAY_S, self._settings.idle_claim_s))
            self._ring()
        finally:
            with self._changed:
                self._rounds_ended = self._rounds_begun
                self._changed.notify_all()

    def _claimed(self) -> Claim | None:
        engines = self._shelf.offered(self._capabilities)
        if not engines:
            return None
        return lifecycle.claim(self._db, self.name, self._settings.queues, engines, lease_s=self._settings.lease_s)

    def _execute(self, claim: Claim) -> None:
        self._runs += 1
        attempt = Attempt(self._tools, claim, lambda: self._runner_for(claim), self._runs)
        with self._changed:
            self._attempt = attempt
            stopping = self._stopping
        # Which number the event of the claim has is for the database to say.
        self._tools.live.poke(claim.job_id, claim.tenant_id, 0)
        if stopping is not None:
            attempt.halt.ask(stopping)
        try:
            attempt.run()
            self._refuse(claim, attempt.verdict)
            self._learn_from_memory(claim, attempt.verdict)
        finally:
            with self._changed:
                self._attempt = None
                self._idle_since = time.monotonic()
                self._changed.notify_all()

    def _refuse(self, claim: Claim, verdict: Verdict | None) -> None:
        """Offers no further the model that the runner could not load, or the next claim would be the same step."""
        if claim.model is None or verdict is None or verdict.outcome not in UNFIT:
            return
        self._shelf.refuse(claim.model, Refusal(verdict.outcome, verdict.message))
        if self._child is not None and verdict.outcome is not Outcome.INSUFFICIENT_VRAM:
            self._child.holds = None
        self._heartbeat.hurry()

    def _learn_from_memory(self, claim: Claim, verdict: Verdict | None) -> None:
        profile = self._child.profile if self._child is not None else None
        if verdict is not None and verdict.outcome is Outcome.GPU_OOM and profile is not None:
            self._tight = TooTight(claim.step_id, profile)

    # --- the runner

    def _ready_child(self) -> Child | None:
        """A runner that can take a step, started now if there is none; None while it is not ready."""
        child = self._child
        if child is None or child.killed or child.gone.is_set():
            child = self._started()
        if child is not None and child.usable and self._learned(child):
            return child
        if child is not None and time.monotonic() - child.started > START_S:
            _log.error("the runner hangs before it is ready")
            child.kill()
        return None

    def _runner_for(self, claim: Claim) -> Child:
        """The warm runner, or a new one when that holds another model than the step needs, or holds it otherwise.

        So a clip comes out the same whatever was made before it.
        """
        child = self._child
        wanted = claim.model if WEIGHTS in claim.engine else None
        profile = self._profile(claim) if wanted else None
        other = child is not None and child.holds is not None and (child.holds, child.profile) != (wanted, profile)
        if wanted and (other or self._resident is None):
            self._warm.pause()
        if child is None or not child.usable or (wanted and other):
            if child is not None:
                _log.info("%s: ends the runner that holds %s", claim.label, child.holds or "no model")
                child.close()
                if child.holds != wanted:
                    self._gave_up(child.holds)
            # Orders wait for it in the channel until it is up; one that never comes up is a stalled attempt.
            child = self._child = Child(self._ring)
        if wanted:
            child.holds, child.profile = wanted, profile
            self._heartbeat.hurry()
        return child

    def _profile(self, claim: Claim) -> str | None:
        return placement.profile(claim, Home.of(self._settings), int(self._capabilities.get("vram_mb", 0)), self._tight)

    @property
    def _resident(self) -> str | None:
        """The model that is in memory, as far as we know."""
        child = self._child
        return child.holds if child is not None and not child.killed and not child.gone.is_set() else None

    @property
    def _unload_at(self) -> float:
        return self._idle_since + self._settings.unload_s

    def _unload_if_idle(self) -> None:
        child, held = self._child, self._resident
        if child is None or held is None or time.monotonic() < self._unload_at:
            return
        _log.info("unloads %s: nothing to do for %g s", held, self._settings.unload_s)
        child.close()
        self._gave_up(held)
        self._warm.go_on()
        self._heartbeat.hurry()
        # The next round starts an empty one, so that the first step after this need not wait for it.
        self._ring()

    def _gave_up(self, model: str | None) -> None:
        if model is not None:
            self._warm.keep(model, Home.of(self._settings).folder(catalogue.named(model)))

    def _started(self) -> Child | None:
        if self._child is not None:
            # What it held, GPU memory above all, is free only once it is reaped.
            self._child.close()
        useless = self._child is not None and self._runs == self._runs_before
        self._useless = self._useless + 1 if useless else 0
        self._child, self._runs_before = None, self._runs
        pause_s = RESTART_S[min(self._useless, len(RESTART_S) - 1)]
        if pause_s:
            _log.error("the runner cannot start; trying again in %g s", pause_s)
            self._pause(pause_s)
        if self._stopping is not None:
            return None
        child = Child(self._ring)
        self._child = child
        if not self._capabilities:
            self._look_with(child)
        return child

    def _look_with(self, child: Child) -> None:
        self._looks = child
        ffmpeg = self._settings.ffmpeg
        child.order("probe", {"engines": self._engines, "ffmpeg": str(ffmpeg) if ffmpeg else None})

    def _learned(self, child: Child) -> bool:
        """Whether it is known what this machine can do; where its GPUs did not tell, they are asked now and then."""
        told, child.capabilities = child.capabilities, None
        if told is not None:
            self._capabilities, self._looks, self._looked_at = dict(told), None, time.monotonic()
            _log.info("serving %s with %s", ", ".join(self._settings.queues), self._capabilities.get("engines"))
            self._heartbeat.hurry()
        silent = bool(self._capabilities) and "vram_mb" not in self._capabilities
        if silent and self._looks is not child and time.monotonic() - self._looked_at >= AGAIN_S:
            self._look_with(child)
        return bool(self._capabilities)

    def _free(self) -> bool:
        child = self._child
        able = child is not None and child.usable and bool(self._capabilities.get("engines"))
        return able and self._attempt is None and self._control == "run" and self._stopping is None

    # --- what happens meanwhile

    def _ring(self) -> None:
        with self._changed:
            self._bell = True
            self._changed.notify_all()

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        with self._changed:
            while self._stopping is None and (left_s := until - time.monotonic()) > 0:
                self._changed.wait(left_s)

    def _hinted(self, job_id: UUID) -> None:
        attempt = self._attempt
        if attempt is not None and attempt.claim.job_id == job_id:
            attempt.hint()

    def _controlled(self, control: Control) -> None:
        self._control = control
        attempt = self._attempt
        if control == "drain" and attempt is not None:
            attempt.halt.ask(Why.YIELD)
        self._ring()

    def _stop(self, why: Why) -> None:
        with self._changed:
            self._stopping = max(why, self._stopping or why)
            attempt = self._attempt
            self._changed.notify_all()
        if attempt is not None:
            attempt.halt.ask(why)
        self._heartbeat.hurry()

    def _described(self) -> Presence:
        attempt = self._attempt
        state: presence.State = "idle"
        if self._stopping is not None or self._control == "drain":
            state = "draining"
        elif attempt is not None:
            state = "busy"
        elif not self._capabilities or (self._control == "run" and (self._child is None or not self._child.usable)):
            # A paused worker that gave its memory back needs no runner.
            state = "starting"
        current = None
        if attempt is not None:
            claim = attempt.claim
            current = {"job": ids.public(ids.JOB, claim.job_id), "step": claim.step_name, "attempt": claim.attempt}
        return presence.described(
            self._settings,
            name=self.name,
            state=state,
            capabilities=self._capabilities,
            offered=self._shelf.offered(self._capabilities),
            refused=self._shelf.refused(self._capabilities),
            resident=self._resident,
            current=current,
        )

    def _close(self) -> None:
        if self._child is not None:
            self._child.close()
        self._warm.close()
        self._hints.close()
        self._heartbeat.close()
        self._tools.live.close()
        self._tools.ringer.close()
        self._tools.storage.close()
        self._db.close()
        self._scratch.close()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        _log.info("worker %s has ended", self.name)
