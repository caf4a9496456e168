"""Every way that rows place a model, in the precision of the row: the clips of diffusers, and a model left as it was.

On a CPU, parts that move as a whole have nowhere to go: of their moving, only the hooks can be looked at here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import A14B, CASES, WAN
from safetensors.torch import load_file
from workshop import Case, Workshop, equal, lora

from framewright.catalogue.diffusion import Profile
from framewright.errors import Canceled
from workers.diffusion import placing
from workers.diffusion.loading import Loaded
from workers.engines.diffusion import Diffusion

PROFILES = {
    "whole": Profile(name="whole", vram_mb=0),
    "parts": Profile(name="parts", vram_mb=0, offload="model"),
    "parts-fp8": Profile(name="parts-fp8", vram_mb=0, offload="model", fp8=True),
    "groups": Profile(name="groups", vram_mb=0, offload="group"),
    "groups-fp8": Profile(name="groups-fp8", vram_mb=0, offload="group", fp8=True),
    "leaves": Profile(name="leaves", vram_mb=0, offload="leaf"),
}
BY_TINY = {case.tiny: case for case in CASES}
BF16, WITH_VAE = {"default": "bfloat16"}, {"default": "bfloat16", "vae": "float32"}
STEERED = {
    "wan22-t2v-5b": replace(
        BY_TINY["wan22-i2v-5b"], tiny="wan22-t2v-5b", pipeline="WanImageToVideoPipeline", dtypes=WITH_VAE
    ),
    "ltx-t2v": replace(BY_TINY["ltx-i2v"], tiny="ltx-t2v", pipeline="LTXImageToVideoPipeline", dtypes=BF16),
}
"""A second task of a model, which has a pipeline of its own."""
BLOCKS = {f"transformer.blocks.{block}.attn1.{name}": (24, 24) for block in (0, 1) for name in ("to_q", "to_v")}
LTX_BLOCKS = {"transformer.transformer_blocks.0.attn1.to_q": (32, 32)}
Place = Callable[[str], Profile]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    """Says how models are placed from now on, as a GPU of some size would have it."""

    def by(name: str) -> Profile:
        monkeypatch.setattr(placing, "HOST", PROFILES[name])
        return PROFILES[name]

    return by


def held(engine: Diffusion) -> Loaded:
    assert engine._held is not None
    return engine._held[1]


def parts(engine: Diffusion) -> Mapping[str, torch.nn.Module]:
    loaded = held(engine)
    pipe = loaded.pipe(loaded.facts.load_as, 16)
    return {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


def tensors(engine: Diffusion) -> dict[str, tuple[torch.dtype, bool, bytes]]:
    """Everything that the model has in memory, to the bit."""
    return {
        f"{part}.{name}": (
            tensor.dtype,
            tensor.requires_grad,
            tensor.detach().flatten().view(torch.uint8).numpy().tobytes(),
        )
        for part, module in parts(engine).items()
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }


def stored(profile: Profile) -> Callable[[Any], None]:
    """Diffusers' own 8 bits, where the profile has them; they follow the LoRAs, as its pages have it."""

    def change(pipe: Any) -> None:
        for network in (pipe.transformer, getattr(pipe, "transformer_2", None)):
            if profile.fp8 and network is not None:
                network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)

    return change


@pytest.mark.parametrize(
    ("model", "name"), [*[("wan22-t2v-5b", name) for name in PROFILES], ("ltx-t2v", "whole"), ("ltx-t2v", "groups-fp8")]
)
def test_a_model_serves_two_tasks_and_is_what_it_was(workshop: Workshop, place: Place, model: str, name: str) -> None:
    profile, engine = place(name), Diffusion()
    other = STEERED[model]
    case = replace(BY_TINY[model], dtypes=other.dtypes)
    workshop.install(case)
    first = workshop.run(case, engine)
    before = tensors(engine)
    assert {dtype for dtype, _, _ in before.values()} >= {torch.bfloat16}
    assert (torch.float8_e4m3fn in {dtype for dtype, _, _ in before.values()}) == profile.fp8
    assert equal(first.frames, workshop.stock(case, stored(profile)))
    assert equal(workshop.run(other, engine).frames, workshop.stock(other, stored(profile)))
    assert equal(workshop.run(case, engine).frames, first.frames)
    assert tensors(engine) == before
    again = workshop.resumed(case, first, 2, engine)
    assert again.meta["exact"]
    assert equal(again.frames, first.frames)


@pytest.mark.parametrize(
    ("model", "name"),
    [*[(WAN, name) for name in PROFILES], (A14B, "parts-fp8")],
    ids=lambda one: getattr(one, "name", one),
)
def test_a_lora_is_put_on_and_taken_off_however_the_model_is_placed(
    workshop: Workshop, place: Place, model: Case, name: str
) -> None:
    profile, engine, case = place(name), Diffusion(), replace(model, dtypes=WITH_VAE)
    workshop.install(case)
    path = lora(workshop.home.root / "loras" / "film.safetensors", BLOCKS)
    asked = [{"name": "film", "scale": 0.75}]
    plain = workshop.run(case, engine)
    before = tensors(engine)

    def put_on(pipe: Any) -> None:
        for second in (False, True)[: 1 if pipe.transformer_2 is None else 2]:
            pipe.load_lora_weights(load_file(path), adapter_name="a", load_into_transformer_2=second)
            (pipe.transformer_2 if second else pipe.transformer).set_adapters(["a"], [0.75])
        stored(profile)(pipe)

    worn = workshop.run(case, engine, loras=asked)
    assert equal(worn.frames, workshop.stock(case, put_on))
    assert not equal(worn.frames, plain.frames)
    assert equal(workshop.run(case, engine, loras=asked).frames, worn.frames)
    assert equal(workshop.run(case, engine).frames, plain.frames)
    assert tensors(engine) == before


def test_a_lora_on_a_second_pipeline_leaves_the_first_as_it_was(workshop: Workshop, place: Place) -> None:
    profile, engine, other = place("groups-fp8"), Diffusion(), STEERED["ltx-t2v"]
    case = replace(BY_TINY["ltx-t2v"], dtypes=BF16)
    workshop.install(case)
    path = lora(workshop.home.root / "loras" / "film.safetensors", LTX_BLOCKS)
    first = workshop.run(case, engine)
    before = tensors(engine)

    def put_on(pipe: Any) -> None:
        pipe.load_lora_weights(load_file(path), adapter_name="a")
        stored(profile)(pipe)

    worn = workshop.run(other, engine, loras=[{"name": "film"}])
    assert equal(worn.frames, workshop.stock(other, put_on))
    assert equal(workshop.run(case, engine).frames, first.frames)
    assert tensors(engine) == before


@pytest.mark.parametrize("ends", ["by itself", "by a cancel"])
def test_a_second_pipeline_puts_back_what_it_moved(workshop: Workshop, place: Place, ends: str) -> None:
    place("parts")
    engine, case, other = Diffusion(), replace(BY_TINY["ltx-t2v"], dtypes=BF16), STEERED["ltx-t2v"]
    workshop.install(case)
    first = workshop.run(case, engine)
    pipe = held(engine).pipe("i2v", 16)
    assert type(pipe).__name__ == other.pipeline
    moving = {name: part._hf_hook for name, part in parts(engine).items()}

    def stop(seen: Any) -> None:
        if ends == "by a cancel" and len(seen.checkpoints) == 2:
            raise Canceled("enough")

    try:
        workshop.run(other, engine, stop=stop)
    except Canceled:
        assert ends == "by a cancel"
    # Whoever puts the parts back sets up their moving anew.
    assert all(part._hf_hook is not moving[name] for name, part in parts(engine).items())
    assert {id(hook.model) for hook in pipe._all_hooks} == {id(part) for part in parts(engine).values()}
    assert equal(workshop.run(case, engine).frames, first.frames)


def out_of_memory(monkeypatch: pytest.MonkeyPatch, vae: Any, when: Callable[[torch.Tensor], bool]) -> None:
    """The next time that this VAE is to decode such latents, there is no memory for it."""
    decode = type(vae).decode

    def failing(this: Any, latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if when(latents):
            monkeypatch.setattr(type(vae), "decode", decode)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(this, latents, *args, **kwargs)

    monkeypatch.setattr(type(vae), "decode", failing)


def test_the_job_after_one_in_tiles_has_none(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop.install(WAN)
    engine = Diffusion()
    plain = workshop.run(WAN, engine)
    vae = held(engine).pipe("t2v", 16).vae
    vae.tile_sample_min_height = vae.tile_sample_min_width = 8
    vae.tile_sample_stride_height = vae.tile_sample_stride_width = 8
    out_of_memory(monkeypatch, vae, lambda latents: latents.shape[2] > 1)
    tiled = workshop.run(WAN, engine)
    assert tiled.generated.tiled
    assert tiled.generated.forwards == plain.generated.forwards
    assert not equal(tiled.frames, plain.frames)
    after = workshop.run(WAN, engine)
    assert not after.generated.tiled
    assert equal(after.frames, plain.frames)


def test_a_profile_with_tiles_says_so(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop.install(WAN)
    monkeypatch.setattr(placing, "HOST", Profile(name="tiles", vram_mb=0, tiling=True))
    engine = Diffusion()
    assert workshop.run(WAN, engine).generated.tiled
    assert workshop.run(WAN, engine).generated.tiled


def test_a_vae_without_tiles_decodes_frame_by_frame_instead(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, engine = BY_TINY["svd"], Diffusion()
    workshop.install(case)
    plain = workshop.run(case, engine, steps=2)
    out_of_memory(monkeypatch, held(engine).pipe("i2v", 64).vae, lambda latents: len(latents) > 1)
    made = workshop.run(case, engine, steps=2)
    assert made.generated.tiled
    assert made.generated.forwards == plain.generated.forwards
    assert equal(made.frames, workshop.stock(case, decode_chunk_size=1, num_inference_steps=2))
    assert not equal(made.frames, plain.frames)
    after = workshop.run(case, engine, steps=2)
    assert not after.generated.tiled
    assert equal(after.frames, plain.frames)
