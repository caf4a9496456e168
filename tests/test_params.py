"""What a request may say is checked strictly, and every refusal names the field and keeps the value to itself."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Annotated, Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError
from pydantic_core.core_schema import ErrorType

from framewright.params import (
    MAX_PROBLEMS,
    JobRequest,
    Params,
    RateBetween,
    Size,
    params_schema,
    pointer,
    ui,
    validation_fields,
)
from framewright.wording import worded


class Clip(Params):
    fps: Annotated[str, RateBetween(1, 60)] = Field("24/1", json_schema_extra=ui("clip", "frames/s", default=24))
    size: Size | None = None
    seconds: float = Field(4.0, ge=0.1, le=60, json_schema_extra=ui("clip", "s"))


def refused(model: type[Any], body: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    return {wrong.pointer: wrong.code for wrong in validation_fields(caught.value)}


@pytest.mark.parametrize(
    ("body", "place", "code"),
    [
        ({}, "/kind", "missing"),
        ({"kind": 7}, "/kind", "wrong_type"),
        ({"kind": "animate", "prioritty": 1}, "/prioritty", "unknown_field"),
        ({"kind": "animate", "priority": "4"}, "/priority", "wrong_type"),
        ({"kind": "animate", "priority": 4.0}, "/priority", "wrong_type"),
        ({"kind": "animate", "priority": True}, "/priority", "wrong_type"),
        ({"kind": "animate", "priority": 101}, "/priority", "out_of_range"),
        ({"kind": "animate", "priority": 2**70}, "/priority", "out_of_range"),
        ({"kind": "animate", "timeout": "60"}, "/timeout", "wrong_type"),
        ({"kind": "animate", "timeout": float("nan")}, "/timeout", "not_finite"),
        ({"kind": "animate", "timeout": float("inf")}, "/timeout", "not_finite"),
        ({"kind": "animate", "timeout": 0}, "/timeout", "out_of_range"),
        ({"kind": "animate", "max_attempts": 0}, "/max_attempts", "out_of_range"),
        ({"kind": "animate", "input": {"image": 3}}, "/input/image", "wrong_type"),
        ({"kind": "animate", "input": {"picture": "asset_0"}}, "/input/picture", "unknown_field"),
        ({"kind": "encode", "input": {"images": ["asset_0", 3]}}, "/input/images/1", "wrong_type"),
        ({"kind": "encode", "input": {"images": "asset_0"}}, "/input/images", "wrong_type"),
        ({"kind": "encode", "input": {"images": ["a"] * 10_001}}, "/input/images", "out_of_range"),
        ({"kind": "animate", "input": []}, "/input", "wrong_type"),
        ({"kind": "animate", "params": []}, "/params", "wrong_type"),
        ({"kind": "animate", "output": {"format": "gif"}}, "/output/format", "unknown_field"),
        ({"kind": "animate", "run_at": 1767225600}, "/run_at", "wrong_format"),
        ({"kind": "animate", "run_at": "2026-01-01"}, "/run_at", "wrong_format"),
        ({"kind": "animate", "run_at": "2026-01-01T00:00:00"}, "/run_at", "wrong_format"),
        ({"kind": "animate", "run_at": "2026-02-30T00:00:00Z"}, "/run_at", "wrong_format"),
        ({"kind": "animate", "run_at": "0001-01-01T00:00:00+23:59"}, "/run_at", "out_of_range"),
        ({"kind": "animate", "webhook": "ftp://example.org/hook"}, "/webhook", "wrong_format"),
        ({"kind": "animate", "metadata": {"shot": 3}}, "/metadata/shot", "wrong_type"),
        ({"kind": "animate", "metadata": {str(i): "" for i in range(17)}}, "/metadata", "out_of_range"),
        ({"kind": "animate", "metadata": {"a": "x" * 513}}, "/metadata/a", "out_of_range"),
        ({"kind": "animate", "metadata": {"": "x"}}, "/metadata/", "out_of_range"),
        ({"kind": "animate", "metadata": {"[key]": 3}}, "/metadata/[key]", "wrong_type"),
        ({"kind": "animate", "[key]": 3}, "/[key]", "unknown_field"),
        ({"kind": "animate", "input": {"[key]": 3}}, "/input/[key]", "unknown_field"),
        ({"kind": "pipeline", "steps": []}, "/steps", "out_of_range"),
        ({"kind": "pipeline", "steps": [{"name": "A b", "kind": "animate"}]}, "/steps/0/name", "wrong_format"),
        ({"kind": "pipeline", "steps": [{"name": "a", "kind": "animate"}] * 17}, "/steps", "out_of_range"),
    ],
)
def test_a_wrong_field_is_named(body: dict[str, Any], place: str, code: str) -> None:
    assert refused(JobRequest, body)[place] == code


def test_the_deadline_to_start_must_follow_the_start() -> None:
    body = {"kind": "animate", "run_at": "2030-01-01T01:00:00+01:00", "start_deadline": "2030-01-01T00:00:00Z"}
    assert refused(JobRequest, body) == {"/start_deadline": "out_of_range"}
    later = JobRequest.model_validate(body | {"start_deadline": "2030-01-01T00:00:00.5z"})
    assert later.run_at is not None
    assert later.start_deadline is not None
    assert (later.start_deadline - later.run_at).total_seconds() == 0.5


def test_a_refusal_never_repeats_what_was_sent() -> None:
    canary = "CANARY-9f3e"
    body = {
        "kind": [canary],
        "model": {"x": canary},
        "webhook": canary,
        "run_at": canary,
        "params": canary,
        "input": {"image": canary * 9, "images": [{"y": canary}]},
        "metadata": {"note": [canary]},
        "steps": [{"name": canary, "kind": "animate"}],
    }
    with pytest.raises(ValidationError) as caught:
        JobRequest.model_validate(body)
    assert canary not in str(validation_fields(caught.value))
    assert canary not in str(caught.value)


def test_ten_thousand_wrong_fields_make_a_short_answer() -> None:
    keys = {"\x1b]0;~/" + "k" * 500 + str(i): i for i in range(10_000)}
    with pytest.raises(ValidationError) as caught:
        JobRequest.model_validate({"kind": "animate", **keys})
    wrong = validation_fields(caught.value)
    assert len(wrong) == MAX_PROBLEMS
    text = json.dumps([(one.pointer, one.code, one.detail) for one in wrong])
    assert len(text) < 8000
    assert "\\u001b" not in text


def test_pointers_are_escaped_as_rfc_6901_says() -> None:
    assert pointer("params", "a/b~c", 0) == "/params/a~1b~0c/0"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "kind is required"),
        ({"kind": 7}, "kind must be text"),
        ({"kind": "animate", "prioritty": 1}, "there is no such field"),
        ({"kind": "animate", "priority": "4"}, "priority must be a whole number"),
        ({"kind": "animate", "priority": 4.5}, "priority must be a whole number"),
        ({"kind": "animate", "priority": 101}, "priority must be at most 100"),
        ({"kind": "animate", "priority": -101}, "priority must be at least -100"),
        ({"kind": "animate", "timeout": "60"}, "timeout must be a number"),
        ({"kind": "animate", "timeout": 86_401}, "timeout must be at most 86400"),
        ({"kind": "animate", "timeout": float("nan")}, "timeout must be a finite number"),
        ({"kind": "animate", "input": []}, "input must be an object"),
        ({"kind": "animate", "params": []}, "params must be an object"),
        ({"kind": "encode", "input": {"images": "asset_0"}}, "images must be a list"),
        ({"kind": "encode", "input": {"images": ["asset_0", 3]}}, "images[1] must be text"),
        ({"kind": "encode", "input": {"images": ["a"] * 10_001}}, "images must have at most 10000 entries"),
        ({"kind": "animate", "input": {"image": ""}}, "image must have 1 or more characters"),
        ({"kind": "animate", "metadata": {"a": "x" * 513}}, "a must have at most 512 characters"),
        ({"kind": "animate", "metadata": {str(n): "x" for n in range(17)}}, "metadata must have at most 16 entries"),
        ({"kind": "animate", "webhook": "ftp://x"}, "webhook must be an http:// or https:// URL"),
        ({"kind": "pipeline", "steps": [{"name": "A", "kind": "animate"}]}, "name must be a small letter and then"),
        ({"kind": "animate", "run_at": "tomorrow"}, "write the time as RFC 3339"),
        (None, "the body must be an object"),
    ],
)
def test_a_refusal_is_a_sentence_of_ours_with_the_field_and_what_it_takes(body: Any, sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        JobRequest.model_validate(body)
    (wrong,) = validation_fields(caught.value)
    assert wrong.detail.startswith(sentence)


def test_whatever_is_wrong_no_sentence_is_pydantics_own() -> None:
    """All that pydantic can complain of, with the facts it could give or none."""
    facts = {"ge": 1, "max_length": 2, "min_length": 1, "expected": "'a' or 'b'", "pattern": "x", "discriminator": "op"}
    for kind in set(get_args(ErrorType)) - {"value_error", "assertion_error"}:
        for given_facts in (facts, {}):
            code, sentence = worded(["field"], kind, given_facts, "Input should be something")
            assert code
            assert sentence
            assert "Input" not in sentence, (kind, sentence)


@pytest.mark.parametrize(
    ("asked", "kept"),
    [(24, "24/1"), (23.976, "2997/125"), (29.97, "2997/100"), ("30000/1001", "30000/1001"), ("48/2", "24/1")],
)
def test_a_rate_is_kept_exactly(asked: float | str, kept: str) -> None:
    assert Clip.model_validate({"fps": asked}).fps == kept


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ("24", "wrong_format"),
        ("24/0", "wrong_format"),
        (" 24/1", "wrong_format"),
        ("24/1\n", "wrong_format"),
        ("\u0662\u0664/\u0661", "wrong_format"),
        (True, "wrong_format"),
        (None, "wrong_format"),
        ([24], "wrong_format"),
        (float("nan"), "not_finite"),
        (float("inf"), "not_finite"),
        (0, "out_of_range"),
        (-24, "out_of_range"),
        (60.001, "out_of_range"),
        (29.97002997, "wrong_format"),
    ],
)
def test_a_rate_that_is_none_is_refused(asked: object, code: str) -> None:
    assert refused(Clip, {"fps": asked}) == {"/fps": code}


@settings(deadline=None)
@given(st.integers(1, 1_000_000), st.integers(1, 1_000_000))
def test_a_ratio_in_range_survives_unchanged(numerator: int, denominator: int) -> None:
    rate = Fraction(numerator, denominator)
    body = {"fps": f"{numerator}/{denominator}"}
    if 1 <= rate <= 60:
        assert Fraction(Clip.model_validate(body).fps) == rate
    else:
        assert refused(Clip, body) == {"/fps": "out_of_range"}


@pytest.mark.parametrize(
    "asked", ["1280", "1280X720", "0x720", "1x2x3", "1 x 2", "123456x2", "", "\uff11\uff12x\uff13\uff14"]
)
def test_a_size_is_width_x_height(asked: str) -> None:
    assert refused(Clip, {"size": asked}) == {"/size": "wrong_format"}


def test_a_size_is_text() -> None:
    assert refused(Clip, {"size": [1280, 720]}) == {"/size": "wrong_type"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(JobRequest.model_fields)) | st.text(max_size=6), json_values, max_size=6))
def test_any_json_is_a_request_or_a_list_of_named_fields(body: dict[str, Any]) -> None:
    try:
        JobRequest.model_validate(body)
    except ValidationError as error:
        wrong = validation_fields(error)
        assert wrong
        assert all(one.pointer.startswith("/") and one.code and one.detail for one in wrong)


def test_the_schema_of_params_is_enough_to_draw_a_form() -> None:
    fields = params_schema(Clip)["properties"]
    assert [fields[name]["x-order"] for name in ("fps", "size", "seconds")] == [1, 2, 3]
    assert fields["fps"] | {"x-order": 0} == fields["fps"] | {
        "x-order": 0,
        "x-group": "clip",
        "x-unit": "frames/s",
        "default": 24,
    }
    assert fields["size"]["x-group"] == "more"
    assert fields["seconds"]["minimum"] == 0.1
