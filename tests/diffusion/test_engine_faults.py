"""What goes wrong inside a run: damaged weights, a VAE without memory, a cancel."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from cases import CASES, WAN
from diffusers import CogVideoXDPMScheduler
from safetensors.torch import load_file, save_file
from workshop import STEPS, Workshop, equal

from framewright import catalogue
from framewright.errors import Canceled, EngineError, FramewrightError, ModelNotReady, Yielded
from framewright.models.home import Home
from workers.engines.diffusion import Diffusion

DPM = next(case for case in CASES if case.tiny == "cogvideox-t2v-dpm")


@pytest.fixture
def copied(workshop: Workshop, tmp_path: Path) -> Path:
    """A copy of the model's folder that a test may spoil, known to the catalogue."""
    folder = tmp_path / "copied"
    shutil.copytree(workshop.pipe_folder(WAN), folder)
    workshop.install(WAN, path=folder)
    return folder


def weights(folder: Path, part: str) -> Path:
    return next((folder / part).glob("*.safetensors"))


def changed(path: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors = load_file(path)
    save_file({name: change(tensor).contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "vae"])
def test_weights_that_are_no_numbers_are_named(workshop: Workshop, copied: Path, part: str) -> None:
    changed(weights(copied, part), lambda tensor: torch.full_like(tensor, float("nan")))
    with pytest.raises(EngineError, match=rf"NaN.*put right what lies in {copied}"):
        workshop.run(WAN)


def test_weights_of_a_row_of_ours_are_mended_by_a_command(workshop: Workshop, copied: Path) -> None:
    """The end of the sentence where the weights were pulled."""
    from workers.diffusion.placing import placed

    row = catalogue.named(WAN.name)
    assert row.diffusion is not None
    assert placed(row, row.diffusion, workshop.home, {}).mend == f"put right what lies in {copied}"


def test_weights_of_other_shapes_are_named(workshop: Workshop, copied: Path) -> None:
    changed(weights(copied, "transformer"), lambda tensor: torch.cat([tensor, tensor]))
    with pytest.raises(EngineError, match=rf"do not make a model.*put right what lies in {copied}"):
        workshop.run(WAN)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_file_cut_short_is_named(workshop: Workshop, copied: Path, keep: int) -> None:
    path = weights(copied, "transformer")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FramewrightError, match=path.name):
        workshop.run(WAN)


def test_a_missing_shard_is_named(workshop: Workshop, copied: Path) -> None:
    pipe = tiny.load(copied)
    shutil.rmtree(copied / "transformer")
    pipe.transformer.save_pretrained(copied / "transformer", max_shard_size="20KB")
    shards = sorted((copied / "transformer").glob("*.safetensors"))
    assert len(shards) > 2
    assert len(workshop.run(WAN).frames) == WAN.frames
    shards[1].unlink()
    with pytest.raises(ModelNotReady, match=rf"its shard {shards[1].name} is not there.*put right"):
        workshop.run(WAN)


def test_a_model_that_is_not_there_or_half_there_names_the_command(workshop: Workshop, tmp_path: Path) -> None:
    workshop.install(WAN)
    seen = workshop.watched(WAN)
    row = catalogue.named(WAN.like)
    object.__setattr__(seen.run, "model", row.name)
    with pytest.raises(ModelNotReady, match=rf"not on this machine; run: framewright models pull {row.name}"):
        Diffusion().run(seen.run)
    folder = Home(workshop.home.root).folder(row)
    shutil.copytree(workshop.pipe_folder(WAN), folder)
    with pytest.raises(ModelNotReady, match=rf"run: framewright models pull {row.name}"):
        Diffusion().run(seen.run)


def test_a_vae_without_memory_decodes_in_tiles_and_denoises_nothing_again(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.install(WAN)
    engine, failed = Diffusion(), []
    workshop.run(WAN, engine)
    vae = held(engine).pipe("t2v", 16).vae
    decode, tiled = type(vae).decode, []

    def out_of_memory(this: Any, *args: Any, **kwargs: Any) -> Any:
        if len(args[0][0, 0]) == 1:
            return decode(this, *args, **kwargs)
        tiled.append(this.use_tiling)
        if not failed:
            failed.append(True)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(this, *args, **kwargs)

    monkeypatch.setattr(type(vae), "decode", out_of_memory)
    made = workshop.run(WAN, engine)
    assert tiled == [False, True]
    assert made.generated.tiled
    assert made.meta["forwards"] == WAN.forwards * STEPS
    assert [one.step for one in made.watched.reports if one.steps] == [1, 2, 3, 4]
    # And where all was denoised by another worker already.
    failed.clear()
    resumed = workshop.resumed(WAN, made, STEPS, engine)
    assert resumed.meta["forwards"] == 0
    assert equal(resumed.frames, made.frames)


def test_memory_that_is_missing_while_denoising_is_not_hidden(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.install(WAN)

    def stop(seen: Any) -> None:
        if len(seen.checkpoints) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        workshop.run(WAN, stop=stop)


def test_a_prompt_asked_again_is_not_encoded_again(workshop: Workshop) -> None:
    workshop.install(WAN)
    engine, encoded = Diffusion(), []
    first = workshop.run(WAN, engine)
    encoder = held(engine).pipe("t2v", 16).text_encoder
    encoder.register_forward_hook(lambda *_: encoded.append(True))
    assert equal(workshop.run(WAN, engine).frames, first.frames)
    assert not encoded
    workshop.run(WAN, engine, prompt="a dog dancing")
    assert encoded


def test_a_cancel_between_blocks_leaves_the_engine_as_it_was(workshop: Workshop) -> None:
    workshop.install(WAN)
    engine, asked = Diffusion(), []

    def stop(seen: Any) -> None:
        asked.append(len(seen.checkpoints))
        if asked.count(2) == 3:
            raise Canceled("enough")

    with pytest.raises(Canceled):
        workshop.run(WAN, engine, stop=stop)
    # Within the third step: two blocks in each forward, and it ended at the second question of that step.
    assert asked.count(2) == 3
    loaded = held(engine)
    assert equal(workshop.run(WAN, engine).frames, workshop.stock(WAN))
    assert held(engine) is loaded


def test_a_drain_waits_for_the_end_of_the_step_and_loses_nothing(workshop: Workshop) -> None:
    workshop.install(WAN)

    def stop(seen: Any) -> None:
        if seen.checkpoints:
            raise Yielded("drain")

    seen = workshop.watched(WAN, stop=stop)
    with pytest.raises(Yielded):
        Diffusion().run(seen.run)
    assert [state["step"] for state in seen.checkpoints] == [1]
    snapshot = seen.run.workdir.with_suffix(".kept") / "1.pt"
    resumed = workshop.run(WAN, resume=seen.checkpoints[0], snapshot=snapshot)
    assert resumed.meta["forwards"] == WAN.forwards * (STEPS - 1)
    assert equal(resumed.frames, workshop.stock(WAN))


@pytest.mark.parametrize(("asked", "used"), [(6, 5), (11, 12), (13, 14), (35, 34), (50, 50)])
def test_counts_of_steps_that_leave_noise_are_adjusted_and_told(workshop: Workshop, asked: int, used: int) -> None:
    workshop.install(DPM)
    planned, _ = workshop.plan(DPM, steps=asked)
    told = {one.field: (one.asked, one.used) for one in planned.adjusted if one.field == "/params/steps"}
    assert planned.params["steps"] == used
    assert told == ({"/params/steps": (asked, used)} if asked != used else {})


def test_the_counts_that_are_left_end_without_noise() -> None:
    facts = catalogue.named("cogvideox-5b").diffusion
    assert facts is not None
    scheduler = CogVideoXDPMScheduler(timestep_spacing="trailing")
    for count in sorted({facts.steps.nearest(asked) for asked in range(2, 101)}):
        scheduler.set_timesteps(count)
        assert len(scheduler.timesteps) == count
        assert scheduler.timesteps[-1] - 1000 // count < 0
    assert facts.steps.default == facts.steps.nearest(facts.steps.default)


def held(engine: Diffusion) -> Any:
    assert engine._held is not None
    return engine._held[1]
