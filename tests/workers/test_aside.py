"""Work on threads that may be left behind: what its caller is told, and when."""

from __future__ import annotations

import threading

import pytest
from waiting import until

from framewright.errors import Canceled
from workers import aside

DEADLINE_S = 30


def test_all_jobs_answer_however_few_run_at_a_time():
    assert sorted(aside.each([lambda _, n=n: n * n for n in range(20)], 3, lambda: False)) == [n * n for n in range(20)]
    assert aside.each([], 3, lambda: False) == []


def test_after_an_error_those_under_way_are_told_and_none_is_begun():
    under_way, told, begun = threading.Event(), threading.Event(), threading.Event()

    def fails(_: aside.Stop) -> None:
        assert under_way.wait(DEADLINE_S)
        raise ValueError("the first")

    def listens(stopped: aside.Stop) -> None:
        under_way.set()
        until(stopped, DEADLINE_S)
        told.set()

    with pytest.raises(ValueError, match="the first"):
        aside.each([fails, listens, lambda _: begun.set()], 2, lambda: False)
    assert told.wait(DEADLINE_S)
    assert not begun.is_set()


def test_who_does_not_listen_is_left_behind(monkeypatch):
    monkeypatch.setattr(aside, "GRACE_S", 0.0)
    over, freed, ended = threading.Event(), threading.Event(), threading.Event()

    def deaf(_: aside.Stop) -> None:
        over.set()
        freed.wait(DEADLINE_S)
        ended.set()

    with pytest.raises(Canceled):
        aside.run(deaf, over.is_set)
    assert not ended.is_set()
    freed.set()
    assert ended.wait(DEADLINE_S)


def test_what_was_done_in_spite_of_it_counts():
    over = threading.Event()

    def quick(_: aside.Stop) -> str:
        over.set()
        return "done"

    assert aside.run(quick, over.is_set) == "done"
