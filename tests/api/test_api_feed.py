"""What one listener is owed, without a socket around it."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from api.feed import MAX_BYTES, MAX_EVENTS, Encoder, Feed, Item, job_topic
from framewright import ids

JOB = ids.uuid7()


def event(seq: int, kind: str = "step_started") -> Item:
    return Item("event", JOB, seq, {"seq": seq, "event": kind})


def progress(fraction: float) -> Item:
    return Item("progress", JOB, 0, {"data": {"fraction": fraction}})


def heard(*items: tuple[str, Item], after: int = 0) -> tuple[list[tuple[str, int, Any]], Feed]:
    async def listen() -> tuple[list[tuple[str, int, Any]], Feed]:
        feed = Feed("default", "key")
        feed.cursors[JOB] = after
        for how, item in items:
            if how == "event":
                feed.event(item, tenant_is_news=False)
            else:
                feed.newest(job_topic(JOB), item)
        return [(item.kind, item.seq, item.fields.get("data")) for _, item in await feed.batch()], feed

    return asyncio.run(listen())


def test_only_the_newest_progress_is_told_and_before_the_end() -> None:
    told, feed = heard(
        ("progress", progress(0.1)), ("event", event(1)), ("progress", progress(0.2)), ("event", event(2, "succeeded"))
    )
    assert told == [("event", 1, None), ("progress", 0, {"fraction": 0.2}), ("event", 2, None)]
    assert feed.cursors[JOB] == 2


def test_an_event_read_for_others_leaves_no_gap_for_one_who_came_later() -> None:
    """A read from 3 on was under way for others when this listener came back with 2."""
    told, feed = heard(("event", event(4)), ("event", event(3)), ("event", event(4)), after=2)
    assert [seq for _, seq, _ in told] == [3, 4]
    assert feed.cursors[JOB] == 4


def test_what_was_seen_is_not_told_again() -> None:
    told, _ = heard(("event", event(3)), ("event", event(4)), ("event", event(4)), ("event", event(2)), after=3)
    assert [seq for _, seq, _ in told] == [4]


def test_events_that_pile_up_cut_the_listener_off() -> None:
    _, feed = heard(*(("event", event(seq)) for seq in range(1, MAX_EVENTS + 2)))
    assert feed.cut.result() == 4429


def test_one_event_is_encoded_once_for_all_its_listeners() -> None:
    encoder = Encoder()
    one = event(1)
    assert encoder.text("tenant", one) is encoder.text("tenant", one)
    assert encoder.text("tenant", one) != encoder.text("job:x", one)
    for seq in range(2, 20):
        assert f'"seq":{seq},' in encoder.text("tenant", event(seq))


def test_what_is_kept_for_other_listeners_is_bounded_in_bytes_and_holds_no_snapshot() -> None:
    encoder = Encoder(keep=1000)
    encoder.text("tenant", snapshot(500))
    assert encoder.kept == 0
    for seq in range(100):
        assert str(seq) in encoder.text("tenant", event(seq))
        assert 0 < encoder.kept <= 1000
    assert len(encoder.text("tenant", Item("event", JOB, 1, {"data": "x" * 2000}))) > 2000
    assert encoder.kept <= 1000


def snapshot(size: int, job: UUID | None = None) -> Item:
    return Item("snapshot", job, 0, {"data": "x" * size})


def offered(*items: Item) -> tuple[list[Item], Feed]:
    """What a listener takes of what it is told on one topic, pictures among them."""

    async def listen() -> tuple[list[Item], Feed]:
        feed = Feed("default", "key")
        for item in items:
            if item.image:
                feed.newest("tenant", item)
            else:
                feed.say("tenant", item)
        return [item for _, item in await feed.batch()], feed

    return asyncio.run(listen())


def test_bytes_that_pile_up_cut_the_listener_off() -> None:
    quarter = [snapshot(MAX_BYTES // 4 - 100, ids.uuid7()) for _ in range(5)]
    told, feed = offered(*quarter[:4])
    assert (told, feed.cut.done()) == (quarter[:4], False)
    told, feed = offered(*quarter)
    assert (told, feed.cut.result()) == ([], 4429)


def test_what_was_taken_does_not_count_any_more() -> None:
    async def listen() -> None:
        feed = Feed("default", "key")
        for _ in range(5):
            feed.say("tenant", snapshot(MAX_BYTES // 2))
            assert not feed.cut.done()
            await feed.batch()

    asyncio.run(listen())


def test_a_new_snapshot_of_the_whole_topic_takes_the_place_of_one_that_waits() -> None:
    many = [snapshot(MAX_BYTES // 2) for _ in range(5)]
    told, feed = offered(*many)
    assert (told, feed.cut.done()) == (many[-1:], False)


def test_pictures_without_room_are_left_out() -> None:
    pictures = [Item("preview", ids.uuid7(), 1, {"seq": 1}, bytes(MAX_BYTES // 4)) for _ in range(6)]
    told, feed = offered(*pictures)
    assert (told, feed.cut.done()) == (pictures[:4], False)
