"""Problem answers stay small whatever was wrong with the request."""

from __future__ import annotations

import json

from api.problems import problem
from framewright.errors import FieldError


def test_a_problem_with_many_long_fields_stays_under_its_cap_and_keeps_the_first() -> None:
    fields = [FieldError(f"/{number}/{'é' * 390}", "wrong", "ü" * 390) for number in range(20)]
    answer = problem(422, "invalid_params", "many things are wrong", {}, fields=fields)
    assert len(answer.body) <= 8_000
    told = json.loads(bytes(answer.body))
    assert told["errors"][0]["pointer"].startswith("/0/")
    assert 0 < len(told["errors"]) < 20
