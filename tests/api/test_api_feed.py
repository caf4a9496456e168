"""What one listener is owed, without a socket around it."""

from __future__ import annotations

import asyncio
from typing import Any

from api.feed import MAX_EVENTS, Encoder, Feed, Item, job_topic
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


def test_only_the_newest_progress_is_told_and_before_the_events() -> None:
    told, feed = heard(
        ("progress", progress(0.1)), ("event", event(1)), ("progress", progress(0.2)), ("event", event(2))
    )
    assert told == [("progress", 0, {"fraction": 0.2}), ("event", 1, None), ("event", 2, None)]
    assert feed.cursors[JOB] == 2


def test_what_was_seen_is_not_told_again() -> None:
    told, _ = heard(("event", event(3)), ("event", event(4)), ("event", event(4)), ("event", event(2)), after=3)
    assert [seq for _, seq, _ in told] == [4]


def test_events_that_pile_up_cut_the_listener_off() -> None:
    _, feed = heard(*(("event", event(seq)) for seq in range(1, MAX_EVENTS + 2)))
    assert feed.cut.result() == 4429


def test_one_event_is_encoded_once_for_all_its_listeners() -> None:
    encoder = Encoder(keep=2)
    one = event(1)
    assert encoder.text("tenant", one) is encoder.text("tenant", one)
    assert encoder.text("tenant", one) != encoder.text("job:x", one)
    for seq in range(2, 20):
        assert f'"seq":{seq},' in encoder.text("tenant", event(seq))
