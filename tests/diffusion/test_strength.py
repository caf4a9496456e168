"""The least strength that a request may ask for is one at which a pipeline still makes a clip."""

from __future__ import annotations

import pytest
from cases import TASKS
from workshop import STEPS, Case, Workshop

from framewright import catalogue
from framewright.catalogue.effort import effort

PARTLY = [case for case in TASKS if "video" in case.slots and case.steps < STEPS]


@pytest.mark.parametrize("case", PARTLY, ids=lambda case: case.label)
def test_the_least_strength_takes_one_step_and_is_estimated_as_one(workshop: Workshop, case: Case) -> None:
    workshop.install(case)
    facts = catalogue.named(case.name).diffusion
    assert facts is not None
    assert facts.strength is not None
    made = workshop.run(case, strength=facts.strength.least(STEPS))
    assert made.generated.steps == 1
    took = effort(facts, made.meta["params"])
    assert took.flops == took.step
