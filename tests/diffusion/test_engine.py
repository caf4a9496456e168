"""Every family through plan and engine on a tiny model: the clip that diffusers makes, and the same after a resume."""

from __future__ import annotations

import pytest
from cases import CASES, TASKS
from workshop import Case, Workshop, equal

from workers.engines.diffusion import Diffusion

every_case = pytest.mark.parametrize("case", [*CASES, *TASKS], ids=lambda case: case.label)


@every_case
def test_frames_are_those_of_diffusers_and_resume_to_the_same(workshop: Workshop, case: Case) -> None:
    workshop.install(case)
    made, steps = workshop.run(case), case.steps
    assert equal(made.frames, workshop.stock(case))
    assert made.meta["forwards"] == case.forwards * steps
    assert [state["step"] for state in made.watched.checkpoints] == list(range(1, steps + 1))
    assert [one.step for one in made.watched.reports if one.steps] == list(range(1, steps + 1))
    assert {one.steps for one in made.watched.reports if one.steps} == {steps}
    again = Diffusion()
    for step in range(1, steps + 1):
        resumed = workshop.resumed(case, made, step, again)
        assert equal(resumed.frames, made.frames)
        assert resumed.meta["resumed_from_step"] == step
        assert resumed.meta["forwards"] == case.forwards * (steps - step)
        assert resumed.meta["exact"]
        if made.generated.sound is not None:
            assert resumed.generated.sound is not None
            assert equal(resumed.generated.sound, made.generated.sound)
