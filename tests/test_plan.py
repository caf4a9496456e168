"""A request becomes exactly the steps it asks for, or is refused by field; no change to it goes untold."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framewright import plan as planning
from framewright.errors import AssetUnusable, InvalidParams, NotFound, UnknownModel
from framewright.given import AssetFacts, asset_ids
from framewright.ids import ASSET, public, uuid7
from framewright.params import JobRequest
from framewright.plan import Plan


def asset(
    width: int | None = 1280, height: int | None = 720, kind: Literal["image", "video", "other"] = "image"
) -> tuple[str, AssetFacts]:
    ident = uuid7()
    facts = AssetFacts(
        ident, f"{kind}/x", kind, 1000, width, height, 1, None, None, f"t/default/a/{ident.hex}", "00" * 32
    )
    return public(ASSET, ident), facts


def plan(body: Mapping[str, Any], *assets: tuple[str, AssetFacts], **options: Any) -> Plan:
    return planning.plan(JobRequest.model_validate(body), dict(assets), **options)


def animate(picture: tuple[str, AssetFacts], /, **params: Any) -> Plan:
    return plan({"kind": "animate", "input": {"image": picture[0]}, "params": params}, picture)


def encode(*pictures: tuple[str, AssetFacts], **params: Any) -> Plan:
    body = {"kind": "encode", "input": {"images": [name for name, _ in pictures]}, "params": params}
    return plan(body, *pictures)


def told(made: Plan) -> dict[str, tuple[Any, Any]]:
    assert all(change.why for change in made.adjusted)
    return {change.field: (change.asked, change.used) for change in made.adjusted}


class Refusal:
    """The one field that a body is refused for."""

    def __init__(self, error: type[InvalidParams | NotFound], body: Mapping[str, Any], *assets: Any, **options: Any):
        with pytest.raises(error) as caught:
            plan(body, *assets, **options)
        assert type(caught.value) is error
        (wrong,) = caught.value.fields
        self.pointer, self.code, self.detail = wrong.pointer, wrong.code, wrong.detail
        self.sentence = caught.value.detail


def test_a_job_of_one_step() -> None:
    name, facts = asset()
    made = plan({"kind": "animate", "input": {"image": name}, "params": {"move": "pan-left"}}, (name, facts))
    (step,) = made.steps
    assert (made.kind, made.model, made.input) == ("animate", "camera-move", {"image": name})
    assert (step.name, step.engine, step.queue, step.needs) == ("main", "camera-move", "cpu", ())
    assert step.inputs == {
        "image": {
            "asset": facts.id.hex,
            "key": facts.key,
            "content_type": "image/x",
            "size": 1000,
            "sha256": "00" * 32,
        }
    }
    assert step.params == made.params
    assert made.params == {
        "move": "pan-left",
        "seconds": 4.0,
        "fps": "24/1",
        "frames": 96,
        "size": "1280x720",
        "easing": "ease-in-out",
        "strength": 0.3,
        "fit": "crop",
        "quality": 65,
        "codec": "hevc",
    }
    assert made.adjusted == ()
    assert (step.max_app, step.stall_s, step.work) == (3, 120.0, 1280 * 720 * 96)
    assert step.timeout_s == pytest.approx(300 + 88.5, abs=0.1)


def test_what_the_caller_says_about_time_and_attempts_wins() -> None:
    picture = asset()
    body = {"kind": "animate", "input": {"image": picture[0]}, "timeout": 12, "max_attempts": 1}
    (step,) = plan(body, picture, stall_s=3.0).steps
    assert (step.timeout_s, step.max_app, step.stall_s) == (12, 1, 3.0)


def test_a_preset_fills_in_and_params_win_over_it() -> None:
    picture = asset()
    body = {"kind": "animate", "input": {"image": picture[0]}, "preset": "draft", "params": {"quality": 90}}
    made = plan(body, picture)
    assert (made.params["fps"], made.params["quality"]) == ("12/1", 90)
    assert Refusal(InvalidParams, body | {"preset": "canary"}, picture).pointer == "/preset"


ratios = st.fractions(1, 60, max_denominator=1001).map(lambda rate: f"{rate.numerator}/{rate.denominator}")


@settings(deadline=None)
@given(
    seconds=st.floats(0.1, 60, allow_nan=False),
    fps=st.integers(1, 60) | ratios,
)
def test_frames_are_seconds_times_fps_to_the_nearest_and_a_rest_is_told(seconds: float, fps: int | str) -> None:
    made = animate(asset(640, 360), seconds=seconds, fps=fps)
    exact = Fraction(repr(seconds)) * Fraction(fps)
    frames = made.params["frames"]
    assert frames >= 1
    assert abs(frames - exact) <= Fraction(1, 2) or frames == 1
    assert ("/params/seconds" in told(made)) == (exact != frames)
    assert made.params["seconds"] == pytest.approx(float(frames / Fraction(fps)), abs=1e-6)
    assert Fraction(made.params["fps"]) == Fraction(fps)


def test_a_tenth_of_a_second_is_a_tenth() -> None:
    assert told(animate(asset(), seconds=0.1, fps=10)) == {}
    assert told(animate(asset(), seconds=2.002, fps="30000/1001")) == {}


@settings(deadline=None)
@given(width=st.integers(1, 9000), height=st.integers(1, 9000))
def test_the_clip_keeps_the_shape_of_the_picture(width: int, height: int) -> None:
    made = animate(asset(width, height))
    used = tuple(map(int, made.params["size"].split("x")))
    assert all(side % 2 == 0 and 32 <= side <= 1280 for side in used)
    assert (told(made) != {}) == (used != (width, height))
    scale = min(1, 1280 / max(width, height))
    for had, has in zip((width, height), used, strict=True):
        assert abs(has - max(32, had * scale)) <= 1


def test_a_size_that_was_asked_for_is_used_and_an_odd_one_grows_by_a_pixel() -> None:
    assert animate(asset(), size="640x640").params["size"] == "640x640"
    made = animate(asset(), size="641x359")
    assert made.params["size"] == "642x360"
    assert told(made) == {"/params/size": ("641x359", "642x360")}


@pytest.mark.parametrize("size", ["30x640", "640x4098", "99999x99999"])
def test_a_size_off_the_rule_is_refused(size: str) -> None:
    picture = asset()
    wrong = Refusal(
        InvalidParams, {"kind": "animate", "input": {"image": picture[0]}, "params": {"size": size}}, picture
    )
    assert (wrong.pointer, wrong.code) == ("/params/size", "out_of_range")


def test_too_many_pixels_in_all_is_refused_with_the_limit() -> None:
    picture = asset()
    params = {"size": "4096x4096", "seconds": 60, "fps": 60}
    wrong = Refusal(InvalidParams, {"kind": "animate", "input": {"image": picture[0]}, "params": params}, picture)
    assert (wrong.pointer, wrong.code) == ("/params/seconds", "too_much_work")
    assert "8 gigapixels" in wrong.detail


@pytest.mark.parametrize(
    ("params", "place", "code"),
    [
        ({"seconds": "4"}, "/params/seconds", "wrong_type"),
        ({"seconds": True}, "/params/seconds", "wrong_type"),
        ({"seconds": float("nan")}, "/params/seconds", "not_finite"),
        ({"seconds": 0}, "/params/seconds", "out_of_range"),
        ({"quality": 65.5}, "/params/quality", "wrong_type"),
        ({"move": "CANARY"}, "/params/move", "not_one_of"),
        ({"zoom": 2}, "/params/zoom", "unknown_field"),
        ({"seed": -1}, "/params/seed", "out_of_range"),
    ],
)
def test_a_wrong_param_is_named_below_params(params: dict[str, Any], place: str, code: str) -> None:
    picture = asset()
    wrong = Refusal(InvalidParams, {"kind": "animate", "input": {"image": picture[0]}, "params": params}, picture)
    assert (wrong.pointer, wrong.code) == (place, code)
    assert "CANARY" not in wrong.detail + wrong.sentence


def test_the_seed_of_handheld_is_drawn_and_recorded() -> None:
    picture = asset()
    body = {"kind": "animate", "input": {"image": picture[0]}, "params": {"move": "handheld"}}
    assert plan(body, picture, draw_seed=lambda: 77).params["seed"] == 77
    assert animate(picture, move="handheld").params["seed"] != animate(picture, move="handheld").params["seed"]
    assert animate(picture, move="handheld", seed=0).params["seed"] == 0
    assert "seed" not in animate(picture, move="zoom-in").params


def test_images_of_one_size_become_a_clip_of_that_size() -> None:
    pictures = [asset(640, 480) for _ in range(5)]
    made = encode(*pictures, fps=2)
    (step,) = made.steps
    assert [entry["asset"] for entry in step.inputs["images"]] == [facts.id.hex for _, facts in pictures]
    assert (made.params["frames"], made.params["size"], made.params["fps"]) == (5, "640x480", "2/1")
    assert made.adjusted == ()


def test_odd_images_are_padded_to_even_and_it_is_told() -> None:
    made = encode(asset(1279, 719))
    assert (made.params["size"], made.params["fit"]) == ("1280x720", "pad")
    assert told(made) == {"/params/size": ("1279x719", "1280x720")}


def test_images_of_mixed_sizes_need_a_fit() -> None:
    pictures = [asset(640, 480), asset(640, 480), asset(640, 482)]
    body = {"kind": "encode", "input": {"images": [name for name, _ in pictures]}}
    wrong = Refusal(InvalidParams, body, *pictures)
    assert (wrong.pointer, wrong.code) == ("/input/images/2", "size_mismatch")
    assert encode(*pictures, fit="crop").params["fit"] == "crop"


def test_a_size_unlike_the_images_needs_a_fit() -> None:
    picture = asset(640, 480)
    body = {"kind": "encode", "input": {"images": [picture[0]]}, "params": {"size": "320x240"}}
    assert Refusal(InvalidParams, body, picture).pointer == "/input/images/0"
    assert encode(picture, size="320x240", fit="stretch").params["size"] == "320x240"
    assert encode(asset(639, 479), size="639x479").params["size"] == "640x480"


def test_zero_images_is_named() -> None:
    for given_ in ({}, {"images": []}, {"images": None}):
        wrong = Refusal(InvalidParams, {"kind": "encode", "input": given_})
        assert (wrong.pointer, wrong.code) == ("/input/images", "missing")


def test_images_too_small_to_encode_are_named() -> None:
    picture = asset(1, 1)
    wrong = Refusal(InvalidParams, {"kind": "encode", "input": {"images": [picture[0]]}}, picture)
    assert (wrong.pointer, wrong.code) == ("/input/images/0", "out_of_range")


def test_chunks_are_accepted_and_the_single_file_is_told() -> None:
    made = encode(asset(), chunk_seconds=60)
    assert told(made) == {"/params/chunk_seconds": (60, None)}
    assert "chunk_seconds" not in made.params


def test_an_asset_of_the_wrong_kind_is_named() -> None:
    clip, text, unseen = asset(kind="video"), asset(kind="other"), asset(None, None)
    for one in (clip, text, unseen):
        wrong = Refusal(AssetUnusable, {"kind": "animate", "input": {"image": one[0]}}, one)
        assert (wrong.pointer, wrong.code) == ("/input/image", "asset_unusable")
    picture = asset()
    body = {"kind": "encode", "input": {"images": [picture[0], clip[0]]}}
    assert Refusal(AssetUnusable, body, picture, clip).pointer == "/input/images/1"


def test_an_unknown_asset_and_a_text_that_is_no_id_answer_the_same() -> None:
    unknown, _ = asset()
    absent = Refusal(NotFound, {"kind": "animate", "input": {"image": unknown}})
    with pytest.raises(NotFound) as caught:
        asset_ids(JobRequest.model_validate({"kind": "animate", "input": {"image": "asset_CANARY"}}))
    (malformed,) = caught.value.fields
    assert (malformed.pointer, malformed.code, malformed.detail) == (absent.pointer, absent.code, absent.detail)
    assert caught.value.detail == absent.sentence == "no such asset"


def test_every_asset_of_a_request_is_listed_by_pointer() -> None:
    a, b = asset()[0], asset()[0]
    body = {
        "kind": "pipeline",
        "steps": [
            {"name": "one", "kind": "encode", "input": {"images": [a, b]}},
            {"name": "two", "kind": "animate", "model": "scripted", "input": {"video": "@one"}},
        ],
    }
    assert asset_ids(JobRequest.model_validate(body)) == {
        "/steps/0/input/images/0": a,
        "/steps/0/input/images/1": b,
    }


@pytest.mark.parametrize(
    ("body", "error", "place"),
    [
        ({"kind": "animate", "model": "ltx"}, UnknownModel, "/model"),
        ({"kind": "animate", "model": "hevc"}, UnknownModel, "/model"),
        ({"kind": "animate", "model": "scripted"}, UnknownModel, "/model"),
        ({"kind": "generate", "model": "ltx"}, UnknownModel, "/model"),
        ({"kind": "generate"}, InvalidParams, "/params/prompt"),
        ({"kind": "enhance"}, UnknownModel, "/kind"),
        ({"kind": "CANARY"}, InvalidParams, "/kind"),
        ({"kind": "animate"}, InvalidParams, "/input/image"),
        ({"kind": "animate", "input": {"video": "asset_" + "0" * 32}}, InvalidParams, "/input/video"),
        ({"kind": "animate", "input": {"image": "@clip"}}, InvalidParams, "/input/image"),
        ({"kind": "animate", "steps": [{"name": "a", "kind": "animate"}]}, InvalidParams, "/steps"),
        ({"kind": "pipeline"}, InvalidParams, "/steps"),
        ({"kind": "pipeline", "steps": [{"name": "a", "kind": "pipeline"}]}, InvalidParams, "/steps/0/kind"),
        ({"kind": "pipeline", "model": "x", "steps": [{"name": "a", "kind": "animate"}]}, InvalidParams, "/model"),
        ({"kind": "pipeline", "steps": [{"name": "a", "kind": "avatar"}]}, UnknownModel, "/steps/0/kind"),
        ({"kind": "pipeline", "steps": [{"name": "a", "kind": "animate"}]}, InvalidParams, "/steps/0/input/image"),
    ],
)
def test_what_cannot_be_done_is_refused_by_field(body: dict[str, Any], error: type[InvalidParams], place: str) -> None:
    wrong = Refusal(error, body)
    assert wrong.pointer == place
    assert "CANARY" not in wrong.detail + wrong.sentence


def scripted(name: str, video: str | None = None, **more: Any) -> dict[str, Any]:
    given_ = {"video": video} if video else {}
    return {"name": name, "kind": "animate", "model": "scripted", "input": given_, **more}


def pipeline(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"kind": "pipeline", "steps": list(steps), **more}


def test_a_pipeline_becomes_steps_that_know_what_they_wait_for() -> None:
    body = pipeline(
        scripted("last", "@left", after=["right"]),
        scripted("left", "@first"),
        scripted("right", "@first", timeout=9),
        scripted("first"),
        timeout=60,
        max_attempts=2,
    )
    made = plan(body, test_engines=True)
    assert (made.kind, made.model, made.input) == ("pipeline", None, {})
    assert [step.name for step in made.steps] == ["first", "left", "right", "last"]
    steps = {step.name: step for step in made.steps}
    assert steps["last"].needs == ("left", "right")
    assert steps["last"].inputs == {"video": {"step": "left"}}
    assert [steps[name].timeout_s for name in ("left", "right")] == [60, 9]
    assert {step.max_app for step in made.steps} == {2}
    assert [shown["name"] for shown in made.params["steps"]] == ["last", "left", "right", "first"]


def test_what_is_adjusted_in_a_step_is_told_below_that_step() -> None:
    picture = asset(1279, 719)
    body = pipeline(scripted("a"), {"name": "b", "kind": "encode", "input": {"images": [picture[0]]}})
    assert list(told(plan(body, picture, test_engines=True))) == ["/steps/1/params/size"]


@pytest.mark.parametrize(
    ("steps", "place", "code"),
    [
        ([scripted("a"), scripted("a")], "/steps/1/name", "duplicate"),
        ([scripted("a", "@b")], "/steps/0/input/video", "unknown_step"),
        ([scripted("a", "@")], "/steps/0/input/video", "unknown_step"),
        ([scripted("a", after=["b"])], "/steps/0/after/0", "unknown_step"),
        ([scripted("a", "@a")], "/steps/0/input/video", "cycle"),
        ([scripted("x"), scripted("a", "@b"), scripted("b", after=["a"])], "/steps/1", "cycle"),
        ([scripted("a"), scripted("b", params={"frames": 0})], "/steps/1/params/frames", "out_of_range"),
    ],
)
def test_a_pipeline_that_cannot_run_is_refused_by_field(steps: list[dict[str, Any]], place: str, code: str) -> None:
    wrong = Refusal(InvalidParams, pipeline(*steps), test_engines=True)
    assert (wrong.pointer, wrong.code) == (place, code)


def test_a_clip_does_not_go_where_a_picture_belongs() -> None:
    body = pipeline(scripted("clip"), {"name": "move", "kind": "animate", "input": {"image": "@clip"}})
    wrong = Refusal(AssetUnusable, body, test_engines=True)
    assert (wrong.pointer, wrong.code) == ("/steps/1/input/image", "asset_unusable")


@settings(deadline=None)
@given(st.data())
def test_any_pipeline_runs_in_an_order_that_respects_its_needs_or_is_a_cycle(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 16))
    names = [f"s{i}" for i in range(count)]
    after = [data.draw(st.lists(st.sampled_from(names), max_size=3, unique=True)) for _ in names]
    body = pipeline(*(scripted(name, after=wait) for name, wait in zip(names, after, strict=True)))
    if _has_cycle(dict(zip(names, after, strict=True))):
        assert Refusal(InvalidParams, body, test_engines=True).code == "cycle"
        return
    made = plan(body, test_engines=True)
    seen: set[str] = set()
    for step in made.steps:
        assert set(step.needs) <= seen
        seen.add(step.name)
    assert seen == set(names)


def _has_cycle(waits: dict[str, list[str]]) -> bool:
    def reaches(start: str) -> bool:
        seen, stack = set[str](), list(waits[start])
        while stack:
            name = stack.pop()
            if name == start:
                return True
            if name not in seen:
                seen.add(name)
                stack.extend(waits[name])
        return False

    return any(reaches(name) for name in waits)
