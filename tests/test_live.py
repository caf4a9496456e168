"""Live entries: what is told is read, in order, after any loss of Redis, and nobody waits for Redis to tell."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from waiting import until

from framewright import embedded
from framewright.errors import BrokerUnavailable
from framewright.events import HintListener, Live, LiveEntry, hints, last_preview, publisher, read_live, wire
from framewright.jobs import Claim, Progress
from framewright.settings import Settings

DEADLINE_S = 60


@pytest.fixture
def make_live() -> Iterator[Callable[[Settings], Live]]:
    with contextlib.ExitStack() as stack:

        def make(settings: Settings) -> Live:
            live = Live(settings)
            stack.callback(live.close)
            return live

        yield make


def claim(job_id: uuid.UUID | None = None) -> Claim:
    return Claim(
        job_id=job_id or uuid.uuid4(),
        step_id=1,
        tenant_id="default",
        fence=uuid.uuid4(),
        attempt=2,
        step_name="clip",
        kind="animate",
        engine="camera-move",
        model="camera-move",
        queue="cpu",
        params={},
        inputs={},
        timeout_s=60,
        stall_s=60,
        checkpoint=None,
        created_at=datetime.now(UTC),
    )


async def take(entries: AsyncIterator[LiveEntry], enough: Callable[[list[LiveEntry]], bool]) -> list[LiveEntry]:
    found: list[LiveEntry] = []
    async with asyncio.timeout(DEADLINE_S):
        async for entry in entries:
            found.append(entry)
            if enough(found):
                break
    await entries.aclose()  # type: ignore[attr-defined]
    return found


def read(settings: Settings, enough: Callable[[list[LiveEntry]], bool], **how: Any) -> list[LiveEntry]:
    """Entries from the beginning of the stream until there are enough."""
    return asyncio.run(take(read_live(settings, **{"last_id": "0-0", **how}), enough))


def client(settings: Settings) -> redis.Redis:
    return redis.Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=5)


def connections(settings: Settings, name: str) -> list[dict[str, Any]]:
    with client(settings) as asking:
        return [one for one in asking.client_list() if one["name"] == f"framewright-{name}"]


def test_what_is_told_is_read(here: Settings, make_live: Callable[[Settings], Live]) -> None:
    live = make_live(here)
    at, job = claim(), uuid.uuid4()
    live.poke(job, "acme", 7)
    live.progress(at, Progress(0.5, "denoising", 5, 10))
    live.preview(at, b"\x89PNG\x00\xff", "image/png", 64, 48)

    found = {entry.type: entry for entry in read(here, lambda found: len(found) == 3)}

    assert (found["poke"].job_id, found["poke"].tenant_id, found["poke"].seq) == (job, "acme", 7)
    told = found["progress"]
    assert (told.job_id, told.tenant_id, told.step, told.attempt) == (at.job_id, "default", "clip", 2)
    assert told.data == Progress(0.5, "denoising", 5, 10).as_json()
    shown = found["preview"]
    assert (shown.job_id, shown.image, shown.step, shown.attempt) == (at.job_id, b"\x89PNG\x00\xff", "clip", 2)
    assert shown.data == {"mime": "image/png", "w": 64, "h": 48}
    assert shown.seq > 0
    assert asyncio.run(last_preview(here, at.job_id)) == (b"\x89PNG\x00\xff", {"mime": "image/png", "w": 64, "h": 48})


def test_a_reader_goes_on_where_it_was(here: Settings, make_live: Callable[[Settings], Live]) -> None:
    live = make_live(here)
    jobs = [uuid.uuid4() for _ in range(1500)]
    for job in jobs:
        live.poke(job, "default", 1)

    first = read(here, lambda found: len(found) == 700)
    rest = read(here, lambda found: len(found) == 800, last_id=first[-1].id)

    assert sorted(entry.job_id for entry in first + rest) == sorted(jobs)


def test_a_new_reader_hears_what_comes_and_not_what_was(here: Settings, make_live: Callable[[Settings], Live]) -> None:
    live = make_live(here)
    before, after = uuid.uuid4(), uuid.uuid4()
    live.poke(before, "default", 1)
    read(here, lambda found: len(found) == 1)
    positions: list[str] = []

    def connected(position: str) -> None:
        positions.append(position)
        live.poke(after, "default", 1)

    found = read(here, lambda found: len(found) == 1, last_id=None, connected=connected)

    assert [entry.job_id for entry in found] == [after]
    assert len(positions) == 1


def test_a_burst_of_progress_becomes_few_entries_and_the_last_one_is_sent(
    here: Settings, make_live: Callable[[Settings], Live]
) -> None:
    live, at = make_live(here), claim()
    started = time.monotonic()
    last = 0
    while time.monotonic() - started < 4 * publisher.BETWEEN_S:
        last += 1
        live.progress(at, Progress(0.5, "denoising", last))

    found = read(here, lambda found: found[-1].data["step"] == last)

    # One at once, one that waits, and what the time that it really took allows.
    assert len(found) <= 2 + (time.monotonic() - started) / publisher.BETWEEN_S
    steps = [entry.data["step"] for entry in found]
    assert steps == sorted(steps)


def test_closing_sends_the_snapshot_that_waits(here: Settings) -> None:
    live, at = Live(here), claim()
    live.progress(at, Progress(0.1, step=1))
    read(here, lambda found: len(found) == 1)
    live.progress(at, Progress(0.2, step=2))
    live.close()
    live.progress(at, Progress(0.3, step=3))

    assert [entry.data["step"] for entry in read(here, lambda found: len(found) == 2)] == [1, 2]


def test_what_no_browser_could_read_is_dropped_alone(here: Settings, make_live: Callable[[Settings], Live]) -> None:
    live, good = make_live(here), claim()
    live.progress(claim(), Progress(float("nan")))
    live.preview(claim(), b"x" * (publisher.MAX_PREVIEW_BYTES + 1), "image/png", 8, 8)
    live.progress(good, Progress(0.5))

    assert [entry.job_id for entry in read(here, lambda found: len(found) == 1)] == [good.job_id]


def test_entries_of_strangers_are_skipped(here: Settings, make_live: Callable[[Settings], Live]) -> None:
    job = uuid.uuid4()
    with client(here) as stranger:
        for junk in (
            b"",
            b"[]",
            b"null",
            b'{"t":"poke"}',
            b'{"t":"other"}',
            b"\xff",
            b'{"t":"poke","job":1,"tenant":2}',
        ):
            stranger.xadd(wire.stream_key(here), {wire.FIELD: junk})
        stranger.xadd(wire.stream_key(here), {"other": "field"})
    make_live(here).poke(job, "default", 1)

    assert [entry.job_id for entry in read(here, lambda found: len(found) == 1)] == [job]


def test_the_stream_is_capped(
    here: Settings, make_live: Callable[[Settings], Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MAX_ENTRIES", 200)
    live, last = make_live(here), uuid.uuid4()
    for job in [*(uuid.uuid4() for _ in range(2000)), last]:
        live.poke(job, "default", 1)

    found = read(here, lambda found: found[-1].job_id == last)

    with client(here) as asking:
        assert asking.xlen(wire.stream_key(here)) < 600
    assert found


def test_pictures_are_fetched_only_for_those_who_look(here: Settings, make_live: Callable[[Settings], Live]) -> None:
    live, seen, unseen, end = make_live(here), claim(), claim(), uuid.uuid4()
    live.preview(unseen, b"unseen", "image/jpeg", 8, 8)
    live.preview(seen, b"seen", "image/jpeg", 8, 8)
    live.poke(end, "default", 1)

    found = read(here, lambda found: found[-1].job_id == end, previews=lambda job: job == seen.job_id)

    assert [entry.image for entry in found if entry.type == "preview"] == [b"seen"]
    with client(here) as asking:
        assert 0 < asking.ttl(wire.preview_key(here, unseen.job_id)) <= wire.PREVIEW_TTL_S


def test_an_idle_publisher_hangs_up_and_calls_again(
    here: Settings, make_live: Callable[[Settings], Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "IDLE_S", 0.3)
    live, first, second = make_live(here), uuid.uuid4(), uuid.uuid4()
    live.poke(first, "default", 1)
    read(here, lambda found: len(found) == 1)
    until(lambda: not connections(here, "live"))
    live.poke(second, "default", 1)

    assert [entry.job_id for entry in read(here, lambda found: len(found) == 2)] == [first, second]


@pytest.mark.fault
def test_nobody_waits_for_a_hung_redis_and_the_newest_arrives(
    own: Settings,
    own_valkey: embedded.Valkey,
    make_live: Callable[[Settings], Live],
    caplog: pytest.LogCaptureFixture,
) -> None:
    live, at, job = make_live(own), claim(), uuid.uuid4()
    live.poke(uuid.uuid4(), "default", 1)
    read(own, lambda found: len(found) == 1)
    own_valkey.pause()
    # A call that waited for Redis would need seconds, and ten thousand of them the rest of the day.
    for number in range(10_000):
        live.poke(uuid.uuid4(), "default", number)
        live.progress(at, Progress(number / 20_000, step=number))
        live.hint(uuid.uuid4())
    live.poke(job, "default", 9)
    live.poke(job, "default", 4)
    live.progress(at, Progress(0.9, step=10_000))
    # The thread behind does not wait for ever either: it gives the line up and says so once.
    until(lambda: "live publishing pauses" in caplog.text)
    own_valkey.resume()

    def newest(found: list[LiveEntry]) -> bool:
        last = {(entry.job_id, entry.data.get("step", entry.seq)) for entry in found}
        return {(job, 9), (at.job_id, 10_000)} <= last

    found = read(own, newest)

    assert 4 not in [entry.seq for entry in found if entry.job_id == job]
    # One batch may have been on its way and as much may have waited; the oldest had to go.
    assert len({entry.job_id for entry in found}) <= 2 * publisher.MAX_PENDING + 1


@pytest.mark.fault
@pytest.mark.parametrize("fault", ["killed", "hung"])
def test_a_reader_says_that_redis_is_gone(
    own: Settings, own_valkey: embedded.Valkey, make_live: Callable[[Settings], Live], fault: str
) -> None:
    live = make_live(own)

    async def watch() -> list[LiveEntry]:
        found: list[LiveEntry] = []
        with pytest.raises(BrokerUnavailable):  # noqa: PT012 - which of the reads fails is up to the kernel
            async with asyncio.timeout(DEADLINE_S):
                async for entry in read_live(own, connected=lambda _: live.poke(uuid.uuid4(), "default", 1)):
                    found.append(entry)
                    own_valkey.kill() if fault == "killed" else own_valkey.pause()
        return found

    try:
        assert len(asyncio.run(watch())) == 1
        with pytest.raises(BrokerUnavailable):
            asyncio.run(last_preview(own, uuid.uuid4()))
    finally:
        if fault == "hung":
            own_valkey.resume()


@pytest.mark.fault
def test_after_a_restart_with_nothing_kept_reader_and_publisher_go_on(
    own: Settings, own_valkey: embedded.Valkey, make_live: Callable[[Settings], Live]
) -> None:
    live, before, during, after = make_live(own), uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
    live.poke(before, "default", 1)
    last_id = read(own, lambda found: len(found) == 1)[0].id
    own_valkey.kill()
    live.poke(during, "default", 2)
    own_valkey.restart(empty=True)
    live.poke(after, "default", 3)

    found = read(own, lambda found: {during, after} <= {entry.job_id for entry in found}, last_id=last_id)

    # The first was there before its answer was, so that the publisher may have sent it again.
    assert [entry.job_id for entry in found if entry.job_id != before] == [during, after]


@pytest.mark.fault
def test_a_flushed_stream_with_older_ids_is_read_from_its_beginning(
    own: Settings, own_valkey: embedded.Valkey, make_live: Callable[[Settings], Live]
) -> None:
    job, tomorrow = uuid.uuid4(), f"{time.time_ns() // 1_000_000 + 86_400_000}-0"
    client(own).flushall()
    make_live(own).poke(job, "default", 1)
    until(lambda: client(own).xlen(wire.stream_key(own)))

    assert [entry.job_id for entry in read(own, lambda found: len(found) == 1, last_id=tomorrow)] == [job]


@pytest.mark.fault
def test_a_flush_under_a_reader_loses_nothing_that_comes_later(
    own: Settings, own_valkey: embedded.Valkey, make_live: Callable[[Settings], Live]
) -> None:
    live, first, second = make_live(own), uuid.uuid4(), uuid.uuid4()

    async def watch() -> list[uuid.UUID]:
        found: list[uuid.UUID] = []
        async with asyncio.timeout(DEADLINE_S):
            async for entry in read_live(own, connected=lambda _: live.poke(first, "default", 1)):
                found.append(entry.job_id)
                if entry.job_id == second:
                    break
                client(own).flushall()
                live.poke(second, "default", 1)
        return found

    assert asyncio.run(watch()) == [first, second]


@pytest.fixture
def make_ear() -> Iterator[Callable[[Settings, Callable[[uuid.UUID], None]], HintListener]]:
    with contextlib.ExitStack() as stack:

        def make(settings: Settings, on_job: Callable[[uuid.UUID], None]) -> HintListener:
            ear = HintListener(settings, on_job)
            stack.callback(ear.close)
            ear.start()
            return ear

        yield make


def test_hints_are_heard_over_one_connection(
    here: Settings, make_live: Callable[[Settings], Live], make_ear: Callable[..., HintListener]
) -> None:
    heard: list[uuid.UUID] = []
    bad, good = uuid.uuid4(), uuid.uuid4()

    def on_job(job_id: uuid.UUID) -> None:
        heard.append(job_id)
        if job_id == bad:
            raise RuntimeError("the caller's own fault")

    already = len(connections(here, "hints"))
    assert make_ear(here, on_job).wait_ready(DEADLINE_S)
    live = make_live(here)
    with client(here) as stranger:
        for junk in (b"", b"[]", b"{}", b'{"job":5}', b'{"job":"x"}', b"\xff"):
            stranger.publish(wire.hint_channel(here), junk)
    live.hint(bad)
    until(lambda: heard == [bad])
    live.hint(good)
    until(lambda: heard == [bad, good])

    assert len(connections(here, "hints")) - already == 1


@pytest.mark.fault
def test_hints_are_heard_again_after_redis_was_killed(
    own: Settings,
    own_valkey: embedded.Valkey,
    make_live: Callable[[Settings], Live],
    make_ear: Callable[..., HintListener],
) -> None:
    heard: list[uuid.UUID] = []
    assert make_ear(own, heard.append).wait_ready(DEADLINE_S)
    own_valkey.kill()
    own_valkey.restart(empty=True)
    until(lambda: connections(own, "hints"))
    live, job = make_live(own), uuid.uuid4()

    def told() -> bool:
        live.hint(job)
        return job in heard

    until(told)
    assert len(connections(own, "hints")) == 1


@pytest.mark.fault
def test_an_ear_that_hears_nothing_asks_and_calls_again(
    own: Settings,
    own_valkey: embedded.Valkey,
    make_ear: Callable[..., HintListener],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hints, "PING_S", 0.3)
    ear = make_ear(own, lambda _: None)
    assert ear.wait_ready(DEADLINE_S)
    own_valkey.pause()
    try:
        until(lambda: not ear.wait_ready(0))
    finally:
        own_valkey.resume()
    assert ear.wait_ready(DEADLINE_S)
