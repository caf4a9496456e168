"""Threads that do to jobs whatever can be done to them, all at once, through the real verbs."""

from __future__ import annotations

import hashlib
import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import jobmaker as make

from framewright import lifecycle, store
from framewright.database import Database
from framewright.errors import Conflict, DatabaseUnavailable, Gone, IdempotencyKeyReuse, NotFound
from framewright.jobs import RETRIES, TERMINAL, Claim, Outcome, Progress

LEASE_S = 0.5
STALL_S = 0.8
TENANTS = ("t1", "t2")
KEYS = 40
GENTLE = (Outcome.YIELDED, Outcome.YIELDED, Outcome.APP_ERROR, Outcome.TRANSIENT_INFRA)


def diamond(rng: random.Random) -> Any:
    steps = make.diamond([rng.choice(make.QUEUES) for _ in range(4)]).steps
    return make.plan(*(make.step(s.name, needs=s.needs, queue=s.queue, stall_s=STALL_S, max_app=6) for s in steps))


@dataclass
class World:
    """What the actors know: leases they hold, leases whose worker died, jobs they made, and what they were told."""

    db: Database
    jobs_wanted: int
    held: dict[UUID, Claim] = field(default_factory=dict)
    dead: list[Claim] = field(default_factory=list)
    jobs: list[tuple[str, UUID]] = field(default_factory=list)
    keyed: dict[tuple[str, str], set[UUID]] = field(default_factory=dict)
    won: Counter[int] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def operations(self) -> int:
        return sum(self.counts.values())

    def wrong(self) -> list[str]:
        """What the answers themselves prove wrong, whatever the tables say."""
        said = [f"{n} winners of step {step}" for step, n in self.won.items() if n != 1]
        said += [f"key {key} made {len(ids)} jobs" for key, ids in self.keyed.items() if len(ids) != 1]
        return said + [f"{n} x {error}" for error, n in self.errors.items()]

    def hold(self, claim: Claim) -> None:
        with self.lock:
            self.held[claim.fence] = claim

    def some_held(self, rng: random.Random, *, drop: bool = False) -> Claim | None:
        with self.lock:
            if not self.held:
                return None
            claim = self.held[rng.choice(list(self.held))]
            if drop:
                del self.held[claim.fence]
            return claim

    def some_job(self, rng: random.Random, *, latest: int = 10**6) -> tuple[str, UUID] | None:
        with self.lock:
            return rng.choice(self.jobs[-latest:]) if self.jobs else None

    def has_won(self, claim: Claim) -> None:
        with self.lock:
            self.won[claim.step_id] += 1


@dataclass
class Actor:
    """One thread: picks an act by its weight until enough was done."""

    world: World
    name: str
    rng: random.Random
    second: ThreadPoolExecutor

    def run(self, until: int) -> None:
        acts: dict[Callable[[], str | None], int] = {
            self.submit: 8, self.claim: 26, self.renew: 13, self.complete: 20, self.release: 9, self.wake: 4,
            self.cancel: 2, self.patch: 2, self.delete: 1, self.retry: 1, self.reap: 8, self.ring: 4, self.read: 2,
            self.race: 5,
        }  # fmt: skip
        while self.world.operations < until:
            (act,) = self.rng.choices(list(acts), list(acts.values()))
            try:
                told = act()
            except (NotFound, Conflict) as error:
                told = type(error).__name__
            except DatabaseUnavailable as error:
                told = "error"
                self.fail(error.__cause__ or error)
            except Exception as error:
                told = "error"
                self.fail(error)
            if told:
                with self.world.lock:
                    self.world.counts[f"{act.__name__} {told}"] += 1

    def fail(self, error: BaseException) -> None:
        with self.world.lock:
            self.world.errors[f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"] += 1

    def submit(self) -> str | None:
        world, rng = self.world, self.rng
        if len(world.jobs) >= world.jobs_wanted:
            return None
        tenant = rng.choice(TENANTS)
        key = str(rng.randrange(KEYS)) if rng.random() < 0.3 else None
        body = rng.choice(["same", "same", "same", "other"]) if key and (tenant, key) in world.keyed else "same"
        facts: dict[str, Any] = {"priority": rng.randrange(-2, 3), "metadata": {}}
        if rng.random() < 0.3:
            facts["webhook"] = "https://example.org/hook"
        if key:
            digests = [hashlib.sha256(text.encode()).digest() for text in (key, body)]
            facts["idempotency"] = lifecycle.Idempotency("POST /jobs", digests[0], digests[1], 24)
            facts["metadata"] = {"key": key}
        try:
            made = make.submit(world.db, diamond(rng), tenant, **facts)
        except IdempotencyKeyReuse:
            return "refused"
        except Gone:
            # Only a key can bring back a job that was deleted.
            assert key
            return "deleted"
        with world.lock:
            if key:
                world.keyed.setdefault((tenant, key), set()).add(made.job.id)
            if not made.replayed:
                world.jobs.append((tenant, made.job.id))
        return "replayed" if made.replayed else "made"

    def claim(self) -> str:
        queues = self.rng.sample(make.QUEUES, self.rng.randrange(1, 4))
        claim = make.claim(self.world.db, self.name, queues, LEASE_S)
        if claim is None:
            return "nothing"
        if self.rng.random() < 0.2:
            with self.world.lock:
                self.world.dead.append(claim)
            return "and die"
        self.world.hold(claim)
        return "ok"

    def renew(self) -> str | None:
        claim = self.world.some_held(self.rng)
        if claim is None:
            return None
        progress = Progress(self.rng.random(), "rendering") if self.rng.random() < 0.7 else None
        checkpoint = {"at": self.rng.randrange(9)} if self.rng.random() < 0.2 else None
        return lifecycle.renew(
            self.world.db,
            claim,
            lease_s=LEASE_S,
            progressed=progress is not None,
            progress=progress,
            checkpoint=checkpoint,
        )

    def complete(self) -> str | None:
        claim = self.world.some_held(self.rng, drop=self.rng.random() < 0.85)
        return self._complete(claim) if claim else None

    def wake(self) -> str | None:
        """A worker that was thought dead comes back and commits."""
        with self.world.lock:
            claim = self.rng.choice(self.world.dead) if self.world.dead else None
        return self._complete(claim) if claim else None

    def _complete(self, claim: Claim) -> str:
        files = [make.artifact(claim, f"{at}.mp4") for at in range(self.rng.randrange(1, 3))]
        answer = lifecycle.complete(self.world.db, claim, files).answer
        if answer == "ok":
            self.world.has_won(claim)
        return answer

    def release(self) -> str | None:
        claim = self.world.some_held(self.rng, drop=self.rng.random() < 0.7)
        return self._release(claim) if claim else None

    def _release(self, claim: Claim) -> str:
        outcome = self.rng.choice(list(RETRIES) if self.rng.random() < 0.25 else GENTLE)
        return lifecycle.release(self.world.db, claim, outcome, message="stress").answer

    def race(self) -> str | None:
        """One lease is committed at the very moment when it is given up, or its job canceled."""
        claim = self.world.some_held(self.rng, drop=True)
        if claim is None:
            return None
        at_once = threading.Barrier(2)

        def against() -> str:
            at_once.wait(30)
            if self.rng.random() < 0.8:
                return self._release(claim)
            return lifecycle.cancel(self.world.db, claim.tenant_id, claim.job_id, "race").state

        other = self.second.submit(against)
        at_once.wait(30)
        try:
            told = self._complete(claim)
        finally:
            against_told = other.result()
        return f"commit {told}, other {against_told}"

    def cancel(self) -> str | None:
        job = self.world.some_job(self.rng)
        return f"-> {lifecycle.cancel(self.world.db, *job, 'stress').state}" if job else None

    def patch(self) -> str | None:
        job = self.world.some_job(self.rng, latest=3)
        return lifecycle.patch(self.world.db, *job, priority=self.rng.randrange(-2, 3)).state if job else None

    def delete(self) -> str | None:
        job = self.world.some_job(self.rng)
        if job is None or self.rng.random() < 0.7:
            return None
        lifecycle.delete(self.world.db, *job)
        return "ok"

    def retry(self) -> str | None:
        job = self.world.some_job(self.rng)
        if job is None:
            return None
        made = lifecycle.retry(self.world.db, *job, max_queued=10**6, max_queued_per_tenant=10**6)
        # The old job's key stays with the old job.
        make.run(self.world.db, "UPDATE jobs SET metadata = metadata - 'key' WHERE id = %s", (made.job.id,))
        with self.world.lock:
            self.world.jobs.append((made.job.tenant_id, made.job.id))
        return "made"

    def reap(self) -> str:
        return f"{min(1, len(lifecycle.reap(self.world.db, grace_s=0, limit=20)))}"

    def ring(self) -> str:
        return "any" if store.due_doorbells(self.world.db, every_s=0.05) else "none"

    def read(self) -> str | None:
        job = self.world.some_job(self.rng)
        if job is None:
            return None
        read = store.get_job(self.world.db, *job)
        assert read.ended == (read.state in TERMINAL)
        return read.status


def stress(db: Database, *, operations: int, jobs: int, threads: int = 8, seed: int = 1) -> World:
    """Let the actors loose until so many operations were done."""
    world = World(db, jobs)
    with ThreadPoolExecutor(threads) as pool, ThreadPoolExecutor(threads) as second:
        actors = [Actor(world, f"w{at}", random.Random(f"{seed}-{at}"), second) for at in range(threads)]
        for done in [pool.submit(actor.run, operations) for actor in actors]:
            done.result()
    return world


def drain(world: World) -> None:
    """Finish whatever is still open, as a healthy worker would; a job that cannot be finished stays open."""
    while True:
        make.run(world.db, "UPDATE steps SET run_at = '-infinity' WHERE state = 'ready'")
        make.run(world.db, "UPDATE steps SET lease_until = clock_timestamp() WHERE state = 'running'")
        worked = len(lifecycle.reap(world.db, grace_s=0))
        while claim := make.claim(world.db, "healthy"):
            worked += 1
            assert make.complete(world.db, claim).answer == "ok"
            world.has_won(claim)
        if not worked:
            return
