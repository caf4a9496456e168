"""A sound that a clip is made to: which files can be one, and what becomes of its length."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from framewright import catalogue
from framewright import plan as planning
from framewright.errors import AssetUnusable, InvalidParams
from framewright.given import AssetFacts
from framewright.ids import ASSET, public, uuid7
from framewright.params import JobRequest
from framewright.plan import Plan

Kind = Literal["image", "video", "other"]


def asset(kind: Kind, content_type: str, seconds: float | None = None) -> tuple[str, AssetFacts]:
    ident = uuid7()
    sides = (None, None) if kind == "other" else (768, 512)
    facts = AssetFacts(ident, content_type, kind, 1000, *sides, None, None, seconds, f"t/a/{ident.hex}", "00" * 32)
    return public(ASSET, ident), facts


def plan(sound: tuple[str, AssetFacts], model: str = "ltx-2-19b", **params: Any) -> Plan:
    body = {"kind": "generate", "model": model, "input": {"audio": sound[0]}, "params": {"prompt": "a cat", **params}}
    return planning.plan(JobRequest.model_validate(body), dict([sound]))


@pytest.mark.parametrize("row", [row for row in catalogue.rows() if row.diffusion and row.diffusion.audio_window])
def test_a_sound_goes_with_every_task_of_a_model_that_hears(row: Any) -> None:
    for task, ways in row.diffusion.slots.items():
        for way in ways:
            assert row.diffusion.task_of({*way.needs, "audio"}) == task


def test_a_sound_is_kept_with_the_step_and_asks_for_no_other_task() -> None:
    sound = asset("other", "audio/flac", 121 / 24)
    made = plan(sound)
    assert made.steps[0].params["task"] == "t2v"
    assert made.steps[0].inputs["audio"]["asset"] == sound[1].id.hex
    assert made.adjusted == ()


@pytest.mark.parametrize(("seconds", "why"), [(60.0, "cut"), (1.0, "silence")])
def test_a_sound_of_another_length_is_told(seconds: float, why: str) -> None:
    made = plan(asset("other", "audio/wav", seconds), frames=121)
    (told,) = made.adjusted
    assert (told.field, told.asked, told.used) == ("/input/audio", seconds, round(121 / 24, 6))
    assert why in told.why


@pytest.mark.parametrize(
    ("kind", "content_type"), [("image", "image/png"), ("video", "video/mp4"), ("other", "application/zip")]
)
def test_what_is_no_sound_is_refused_by_the_name_of_its_slot(kind: Kind, content_type: str) -> None:
    with pytest.raises(AssetUnusable, match="this must be audio") as refused:
        plan(asset(kind, content_type))
    assert [one.pointer for one in refused.value.fields] == ["/input/audio"]


def test_a_model_that_hears_nothing_takes_no_sound() -> None:
    with pytest.raises(InvalidParams) as refused:
        plan(asset("other", "audio/wav", 1.0), model="wan-2.1-t2v-1.3b")
    assert [one.pointer for one in refused.value.fields] == ["/input/audio"]
