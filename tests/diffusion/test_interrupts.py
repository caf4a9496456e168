"""What can come between: a cancel between two blocks, offloaded weights, step caches, a shorter clip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import shelves
import tiny
import torch
from shelves import STEPS, Clip, Shelf

from workers.diffusion.stepping import DENOISERS, Snapshot, StepControl

CANCELED = (
    "ltx-i2v",
    "ltx2-t2v",
    "wan22-t2v-a14b",
    "hunyuan-t2v",
    "hunyuan15-t2v",
    "cogvideox-t2v-dpm",
    "mochi",
    "svd",
    "animatediff-dpm",
)


@pytest.mark.parametrize("name", CANCELED)
def test_a_cancel_stops_before_the_next_block_and_leaves_the_pipeline_ready(shelf: Shelf, name: str) -> None:
    pipe, generator = shelf.load(name), tiny.seeded()
    begun = [0]
    modules = [getattr(pipe, part, None) for part in DENOISERS]
    blocks = [
        block
        for module in modules
        if module is not None
        for held in module.children()
        if isinstance(held, torch.nn.ModuleList)
        for block in held
    ]

    def check() -> None:
        if under.steps == 2:
            raise shelves.Stopped

    def block_runs(*_: object) -> None:
        assert under.steps < 2
        begun[0] += 1

    hooks = [block.register_forward_hook(block_runs) for block in blocks]
    with pytest.raises(shelves.Stopped), shelves.control(pipe, name, generator, check=check) as under:
        shelves.call(pipe, name, generator)
    assert begun[0] > 0
    for hook in hooks:
        hook.remove()
    assert all("forward" not in vars(module) for module in modules if module is not None)
    assert not any(block._forward_pre_hooks for block in blocks)
    assert Clip.of(shelves.call(pipe, name, tiny.seeded())).digest == shelf.stock(name)[0].digest


def _model_offload(pipe: Any) -> None:
    pipe.enable_model_cpu_offload(device="cpu")


def _block_offload(pipe: Any) -> None:
    pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1)


def _leaf_offload(pipe: Any) -> None:
    pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")


@pytest.mark.parametrize("offload", [_model_offload, _block_offload, _leaf_offload])
@pytest.mark.parametrize("name", ["wan22-i2v-a14b", "ltx-t2v"])
def test_offloaded_weights_are_resumed_the_same_and_show_no_previews(
    shelf: Shelf, name: str, offload: Callable[[Any], None], tmp_path: Path
) -> None:
    pipe, generator, path, stills = shelf.load(name), tiny.seeded(), tmp_path / "third.pt", []
    offload(pipe)
    # Not the clip of the others: where weights lie in memory can change the last bit of a sum on a CPU.
    stock, computed = Clip.of(shelves.call(pipe, name, tiny.seeded())), shelf.stock(name)[1]
    stop = shelves.stop_at(3, path)

    def on_step(under: StepControl) -> None:
        stills.append(shelves.still(pipe, name, under))
        stop(under)

    with pytest.raises(shelves.Stopped), shelves.control(pipe, name, generator, on_step=on_step):
        shelves.call(pipe, name, generator)
    assert stills == [None] * 3
    for _ in range(2):
        clip, under, _ = shelves.resumed(pipe, name, Snapshot.load(path))
        assert clip.digest == stock.digest
        assert under.forwards == computed // 2
    assert Clip.of(shelves.call(pipe, name, tiny.seeded())).digest == stock.digest


def test_a_run_with_a_step_cache_says_that_its_resume_is_not_exact(shelf: Shelf, tmp_path: Path) -> None:
    pipe, generator, path = shelf.load("wan21-t2v"), tiny.seeded(), tmp_path / "cached.pt"
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.5))
    with (
        pytest.raises(shelves.Stopped),
        shelves.control(pipe, "wan21-t2v", generator, on_step=shelves.stop_at(3, path)),
    ):
        shelves.call(pipe, "wan21-t2v", generator)
    assert not Snapshot.load(path).exact
    _, under, _ = shelves.resumed(pipe, "wan21-t2v", Snapshot.load(path))
    assert under.steps == STEPS
    pipe.transformer.disable_cache()
    assert Clip.of(shelves.call(pipe, "wan21-t2v", tiny.seeded())).digest == shelf.stock("wan21-t2v")[0].digest
    assert shelf.journal("wan21-t2v").snapshot(3).exact


def test_a_canceled_run_leaves_nothing_in_a_step_cache(shelf: Shelf, tmp_path: Path) -> None:
    def load() -> Any:
        pipe = shelf.load("wan21-t2v")
        pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=10.0))
        return pipe

    whole, pipe = Clip.of(shelves.call(load(), "wan21-t2v", tiny.seeded())), load()
    generator, stop = tiny.seeded(8), shelves.stop_at(3, tmp_path / "cached.pt")
    with pytest.raises(shelves.Stopped), shelves.control(pipe, "wan21-t2v", generator, on_step=stop):
        shelves.call(pipe, "wan21-t2v", generator)
    assert Clip.of(shelves.call(pipe, "wan21-t2v", tiny.seeded())).digest == whole.digest


@pytest.mark.parametrize("cut", [3, 6, 8, 12])
@pytest.mark.parametrize("name", ["animatediff-ddim", "animatediff-sde"])
def test_a_loop_that_begins_again_from_its_own_answer_is_resumed_in_either_turn(
    shelf: Shelf, name: str, cut: int, tmp_path: Path
) -> None:
    def load() -> Any:
        pipe = shelf.load(name)
        pipe.enable_free_init(num_iters=2)
        return pipe

    whole, pipe, generator, path = (
        Clip.of(shelves.call(load(), name, tiny.seeded())),
        load(),
        tiny.seeded(),
        tmp_path / "s",
    )
    with (
        pytest.raises(shelves.Stopped),
        shelves.control(pipe, name, generator, on_step=shelves.stop_at(cut, path), segments=2),
    ):
        shelves.call(pipe, name, generator)
    clip, under, _ = shelves.resumed(load(), name, Snapshot.load(path), segments=2)
    assert clip.digest == whole.digest
    assert (under.total, under.steps, under.forwards) == (2 * STEPS, 2 * STEPS, 2 * STEPS - cut)


FROM_VIDEO = {
    "wan21-t2v": "WanVideoToVideoPipeline",
    "cogvideox-t2v-ddim": "CogVideoXVideoToVideoPipeline",
    "animatediff-dpm": "AnimateDiffVideoToVideoPipeline",
}


@pytest.mark.parametrize("name", FROM_VIDEO)
def test_a_clip_made_from_another_counts_the_steps_that_its_strength_leaves(
    shelf: Shelf, name: str, tmp_path: Path
) -> None:
    pipe = getattr(diffusers, FROM_VIDEO[name]).from_pipe(shelf.load(name))
    one = tiny.FAMILIES[name]
    video = tiny.film(one.frames, one.width, one.height)
    asked = {key: value for key, value in one.call().items() if key not in ("num_frames", "height", "width")}
    asked |= {"video": video, "strength": 0.5, "num_inference_steps": STEPS, "output_type": "np"}
    if "Wan" in FROM_VIDEO[name] or "Cog" in FROM_VIDEO[name]:
        asked |= {"height": one.height, "width": one.width}
    stock = Clip.of(pipe(**asked, generator=tiny.seeded()))
    generator, path, seen = tiny.seeded(), tmp_path / "strength.pt", []

    def on_step(under: StepControl) -> None:
        seen.append((under.steps, under.total))
        if under.steps == 2:
            under.snapshot().save(path)

    with shelves.control(pipe, name, generator, on_step=on_step):
        assert Clip.of(pipe(**asked, generator=generator)).digest == stock.digest
    assert seen == [(1, 3), (2, 3), (3, 3)]
    generator = tiny.seeded()
    with shelves.control(pipe, name, generator, resume=Snapshot.load(path)) as under:
        assert Clip.of(pipe(**asked, generator=generator)).digest == stock.digest
    assert (under.steps, under.replayed) == (3, under.forwards * 2)


def test_ltx_that_refines_given_latents_counts_the_steps_that_are_left(shelf: Shelf, tmp_path: Path) -> None:
    pipe, path = shelf.load("ltx-keyframes"), tmp_path / "refined.pt"
    ratio = pipe.vae_spatial_compression_ratio
    latents = torch.randn((1, 8, 3, 32 // ratio, 32 // ratio), generator=tiny.seeded(1))
    more = {"latents": latents, "denoise_strength": 0.5}
    stock = Clip.of(shelves.call(pipe, "ltx-keyframes", tiny.seeded(), **more))
    generator = tiny.seeded()
    stop = shelves.stop_at(2, path)
    with pytest.raises(shelves.Stopped), shelves.control(pipe, "ltx-keyframes", generator, on_step=stop) as under:
        shelves.call(pipe, "ltx-keyframes", generator, **more)
    assert under.total == 3
    generator = tiny.seeded()
    with shelves.control(pipe, "ltx-keyframes", generator, resume=Snapshot.load(path)):
        assert Clip.of(shelves.call(pipe, "ltx-keyframes", generator, **more)).digest == stock.digest
