"""Whatever threads do to jobs at once, nothing that must be true of them ever breaks, and every job can end."""

from __future__ import annotations

import pytest
from actors import drain, stress
from invariants import broken

from framewright import store
from framewright.database import Database

OPERATIONS = 20_000


@pytest.mark.timeout(300)
def test_twenty_thousand_operations_at_once_break_nothing(scratch: Database) -> None:
    world = stress(scratch, operations=OPERATIONS, jobs=500)
    print(f"{world.operations} operations: {dict(sorted(world.counts.items()))}")
    assert world.operations >= OPERATIONS
    assert world.wrong() == []
    assert broken(scratch) == {}
    seen = {told for told, n in world.counts.items() if n}
    # It proves nothing unless all this really happened.
    assert seen >= {
        "submit made", "submit replayed", "submit refused", "claim ok", "claim nothing", "claim and die", "renew ok",
        "renew lost", "complete ok", "complete already", "complete fenced", "wake ok", "wake fenced", "release retry",
        "release failed", "release fenced", "cancel -> canceled", "cancel -> succeeded", "cancel -> failed", "reap 1",
        "ring any", "patch queued", "delete ok", "retry made",
    }  # fmt: skip

    drain(world)
    assert world.wrong() == []
    assert broken(scratch) == {}
    assert store.open_jobs(scratch) == 0
