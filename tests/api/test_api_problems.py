"""Problem answers stay small whatever was wrong with the request."""

from __future__ import annotations

import json
import re

import httpx
from docs_tables import DOCS

from api.openapi import PROBLEM
from api.problems import problem
from framewright.errors import FieldError


def test_a_problem_with_many_long_fields_stays_under_its_cap_and_keeps_the_first() -> None:
    fields = [FieldError(f"/{number}/{'é' * 390}", "wrong", "ü" * 390) for number in range(20)]
    answer = problem(422, "invalid_params", "many things are wrong", {}, fields=fields)
    assert len(answer.body) <= 8_000
    told = json.loads(bytes(answer.body))
    assert told["errors"][0]["pointer"].startswith("/0/")
    assert 0 < len(told["errors"]) < 20


def test_the_documented_error_is_a_real_one_and_every_field_is_explained(client: httpx.Client) -> None:
    section = (DOCS / "api.md").read_text().split("\n### Errors\n")[1].split("\n## ")[0]
    asked = re.search(r"`POST (/\S+)` with `(\{.*?\})`", section)
    shown = re.search(r"```json\n(.*?)```", section, re.DOTALL)
    assert asked
    assert shown
    example = json.loads(shown[1])
    headers = {"X-Request-Id": example["request_id"]}
    answer = client.post(asked[1], json=json.loads(asked[2]), headers=headers)
    assert (answer.status_code, answer.json()) == (example["status"], example)
    assert client.get("/api/v1/jobs/job_1").json()["instance"] == "/api/v1/jobs/:job_id"
    explained = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert explained == list(example) == PROBLEM["required"]
