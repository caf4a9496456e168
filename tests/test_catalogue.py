"""Rows are complete, consistent and honest; whatever they promise their own params accept."""

from __future__ import annotations

import json

import pytest

from framewright import catalogue
from framewright.catalogue.row import ModelRow, SizeRule
from framewright.errors import UnknownModel
from framewright.params import KINDS, PIPELINE

ROWS = catalogue.rows(test_engines=True)
QUEUES = {"gpu", "enhance", "encode", "encode.hw", "cpu"}
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def test_names_are_unique_and_each_kind_has_one_default() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    defaults = [kind for row in ROWS for kind in row.default_for]
    assert sorted(defaults) == sorted(catalogue.kinds())


def test_what_the_house_serves_today() -> None:
    offered = {
        row.name: (row.kinds, row.engine) for row in catalogue.rows() if row.engine not in {"diffusion", "remote"}
    }
    assert offered == {"camera-move": (("animate",), "camera-move"), "hevc": (("encode",), "encode")}
    assert catalogue.find("animate", None).name == "camera-move"
    assert catalogue.find("generate", None).name == "wan-2.1-t2v-1.3b"
    assert catalogue.find("encode", None).name == "hevc"


@every_row
def test_a_row_is_consistent(row: ModelRow) -> None:
    assert set(row.kinds) <= set(KINDS) - {PIPELINE}
    assert set(row.default_for) <= set(row.kinds)
    assert row.queue in QUEUES
    assert row.licence.name
    assert len(row.summary) > 40
    assert {"size", "fps"} <= row.params.model_fields.keys()
    assert set(row.not_yet) <= row.params.model_fields.keys()
    assert (row.seed is not None) == ("seed" in row.params.model_fields)
    assert (row.diffusion is not None) == (row.engine == "diffusion")
    assert (row.elsewhere is not None) == (row.engine == "remote")
    assert row.size.least % row.size.multiple == 0
    assert row.size.most % row.size.multiple == 0
    if row.frames.source == "seconds":
        assert "seconds" in row.params.model_fields


@every_row
def test_the_defaults_and_presets_of_a_row_are_accepted_by_its_params(row: ModelRow) -> None:
    # Words are all that a model may insist on.
    words = {"prompt": "a fox"} if "prompt" in row.params.model_fields else {}
    row.params.model_validate(words)
    for preset in row.presets:
        row.params.model_validate(words | dict(preset.params))
        assert row.preset(preset.name) is preset


@every_row
def test_every_param_has_a_description_a_group_and_a_place_in_the_schema(row: ModelRow) -> None:
    shown = catalogue.describe(row)
    fields = json.loads(json.dumps(shown))["params_schema"]["properties"]
    for name, field in fields.items():
        assert field["description"], name
        assert field["x-group"] != "more", name
    assert sorted(field["x-order"] for field in fields.values()) == list(range(1, len(fields) + 1))


def test_the_scripted_row_is_for_tests_only() -> None:
    assert catalogue.find("animate", "scripted", test_engines=True).test_only
    with pytest.raises(UnknownModel) as refused:
        catalogue.find("animate", "scripted")
    assert [wrong.pointer for wrong in refused.value.fields] == ["/model"]


def test_an_unknown_model_names_the_field_and_the_choices_but_not_what_was_asked() -> None:
    with pytest.raises(UnknownModel) as refused:
        catalogue.find("animate", "canary-9f3e", at="/steps/2")
    (wrong,) = refused.value.fields
    assert (wrong.pointer, wrong.code) == ("/steps/2/model", "unknown_model")
    assert "camera-move" in wrong.detail
    assert "canary" not in wrong.detail + refused.value.detail


@pytest.mark.parametrize("kind", ["enhance", "avatar"])
def test_a_kind_without_a_model_is_refused_at_kind(kind: str) -> None:
    with pytest.raises(UnknownModel) as refused:
        catalogue.find(kind, None)
    assert [(wrong.pointer, wrong.code) for wrong in refused.value.fields] == [("/kind", "unsupported_kind")]


def test_size_rules_round_up_or_to_the_nearest_within_their_limits() -> None:
    rule = SizeRule("picture", multiple=16, least=64, most=1000)
    assert [rule.up(side) for side in (64, 65, 80)] == [64, 80, 80]
    assert [rule.nearest(side) for side in (1, 71, 72, 5000)] == [64, 64, 80, 992]
