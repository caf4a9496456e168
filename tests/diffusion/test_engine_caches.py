"""Step caches through the engine: as diffusers has them, off again afterwards, and honest about a resume."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
from cases import CASES, WAN
from workshop import Case, Workshop, equal

from framewright import catalogue
from framewright.errors import Canceled
from workers.diffusion import caching
from workers.engines.diffusion import Diffusion

STEPS = 8
OFTEN = 0.9
"""Networks of random weights change much from step to step."""
BY_TINY = {case.tiny: case for case in CASES}
WORKING = [
    (name, cache)
    for name in ("ltx-condition", "wan21-t2v", "hunyuan-t2v", "cogvideox-t2v-dpm", "mochi")
    for cache in ("first-block", "taylor-lite", "pyramid")
] + [("hunyuan-i2v-replace", "pyramid"), ("ltx2-t2v", "taylor-lite"), ("hunyuan15-t2v", "taylor-lite")]


def config(pipe: Any, cache: str) -> Any:
    match cache:
        case "first-block":
            return diffusers.FirstBlockCacheConfig(threshold=OFTEN)
        case "taylor-lite":
            return diffusers.TaylorSeerCacheConfig(use_lite_mode=True)
        case _:
            return diffusers.PyramidAttentionBroadcastConfig(
                spatial_attention_block_skip_range=2, current_timestep_callback=lambda: pipe.current_timestep
            )


def stock(workshop: Workshop, case: Case, cache: str) -> Any:
    plain = workshop.pipe

    def pipe(one: Case) -> Any:
        made = plain(one)
        made.transformer.enable_cache(config(made, cache))
        return made

    workshop.pipe = pipe  # type: ignore[method-assign]
    try:
        return workshop.stock(case, num_inference_steps=STEPS)
    finally:
        workshop.pipe = plain  # type: ignore[method-assign]


@pytest.mark.parametrize(("name", "cache"), WORKING)
def test_a_cache_works_as_in_diffusers_and_is_off_afterwards(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, name: str, cache: str
) -> None:
    monkeypatch.setattr(caching, "THRESHOLD", OFTEN)
    case, engine = BY_TINY[name], Diffusion()
    workshop.install(case)
    plain = workshop.run(case, engine, steps=STEPS)
    made = workshop.run(case, engine, steps=STEPS, cache=cache)
    assert equal(made.frames, stock(workshop, case, cache))
    assert not equal(made.frames, plain.frames)
    assert made.meta["exact"]
    assert equal(workshop.run(case, engine, steps=STEPS).frames, plain.frames)


def test_every_cache_of_a_row_was_tried_with_its_family() -> None:
    tried = {(catalogue.named(BY_TINY[name].like).diffusion.family, cache) for name, cache in WORKING}  # type: ignore[union-attr]
    offered = {
        (row.diffusion.family, cache) for row in catalogue.rows() if row.diffusion for cache in row.diffusion.caches
    }
    assert offered <= tried


def test_a_resume_with_a_cache_says_that_it_is_not_exact(workshop: Workshop) -> None:
    workshop.install(WAN)
    made = workshop.run(WAN, steps=STEPS, cache="taylor-lite")
    assert not any(state["exact"] for state in made.watched.checkpoints)
    resumed = workshop.resumed(WAN, made, 3, steps=STEPS, cache="taylor-lite")
    assert resumed.meta["resumed_from_step"] == 3
    assert not resumed.meta["exact"]


def test_a_cache_is_off_after_a_cancel_too(workshop: Workshop) -> None:
    workshop.install(WAN)
    engine = Diffusion()

    def stop(seen: Any) -> None:
        if len(seen.checkpoints) == 4:
            raise Canceled("enough")

    with pytest.raises(Canceled):
        workshop.run(WAN, engine, stop=stop, steps=STEPS, cache="taylor-lite")
    assert equal(workshop.run(WAN, engine).frames, workshop.stock(WAN))
