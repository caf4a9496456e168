"""LoRAs through the engine: put on as diffusers does, taken off again, and refused when they are not for the model."""

from __future__ import annotations

import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import A14B, CASES, WAN
from safetensors.torch import load_file, save_file
from workshop import Case, Workshop, equal, lora

from framewright.errors import BadInput
from workers.engines.diffusion import Diffusion

WAN_KEYS = {f"transformer.blocks.{block}.attn1.{name}": (24, 24) for block in (0, 1) for name in ("to_q", "to_v")}
BY_TINY = {case.tiny: case for case in CASES}
OF_EACH = {
    "ltx-condition": {"transformer.transformer_blocks.0.attn1.to_q": (32, 32)},
    "ltx2-t2v": {"transformer.transformer_blocks.0.attn1.to_q": (16, 16)},
    "wan21-t2v": WAN_KEYS,
    "hunyuan-t2v": {"transformer.transformer_blocks.0.attn.to_q": (20, 20)},
    "cogvideox-t2v-dpm": {"transformer.transformer_blocks.0.attn1.to_q": (32, 32)},
    "mochi": {"transformer.transformer_blocks.0.attn1.to_q": (16, 16)},
    "animatediff-ddim": {"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (8, 8)},
}


def kept(workshop: Workshop, name: str, keys: dict[str, tuple[int, int]], **how: Any) -> Path:
    """A LoRA where an operator keeps those that have a name."""
    return lora(workshop.home.root / "loras" / f"{name}.safetensors", keys, **how)


def stock(workshop: Workshop, case: Case, worn: list[tuple[Path, float]], **where: bool) -> Any:
    """What diffusers makes with these."""

    def put_on(pipe: Any) -> None:
        for index, (path, _) in enumerate(worn):
            pipe.load_lora_weights(load_file(path), adapter_name=f"a{index}", **where)
        network = pipe.transformer_2 if where else getattr(pipe, "transformer", None) or pipe.unet
        network.set_adapters([f"a{index}" for index in range(len(worn))], [scale for _, scale in worn])

    return workshop.stock(case, put_on)


@pytest.mark.parametrize("name", OF_EACH)
def test_a_lora_changes_the_clip_as_in_diffusers_and_is_gone_afterwards(workshop: Workshop, name: str) -> None:
    case = BY_TINY[name]
    workshop.install(case)
    path, engine = kept(workshop, "film", OF_EACH[name]), Diffusion()
    plain = workshop.run(case, engine)
    worn = workshop.run(case, engine, loras=[{"name": "film", "scale": 0.75}])
    assert equal(worn.frames, stock(workshop, case, [(path, 0.75)]))
    assert not equal(worn.frames, plain.frames)
    assert equal(workshop.run(case, engine).frames, plain.frames)


def test_several_are_worn_each_at_its_scale_and_survive_a_resume(workshop: Workshop) -> None:
    workshop.install(WAN)
    first = lora(workshop.folder / "uploaded-first.safetensors", WAN_KEYS)
    second = kept(workshop, "second", dict(list(WAN_KEYS.items())[:1]))
    asked = [{"name": "second", "scale": -0.5}, {"asset": ASSET, "scale": 1.5}]
    made = go(workshop, asked, [first])
    assert equal(made.frames, stock(workshop, WAN, [(second, -0.5), (first, 1.5)]))
    resumed = go(workshop, asked, [first], resume=made.watched.checkpoints[1], snapshot=workshop.kept(made, 2))
    assert resumed.meta["resumed_from_step"] == 2
    assert equal(resumed.frames, made.frames)


def test_another_content_under_the_same_name_starts_from_the_beginning(workshop: Workshop) -> None:
    workshop.install(WAN)
    kept(workshop, "film", WAN_KEYS)
    asked = [{"name": "film"}]
    made = workshop.run(WAN, loras=asked)
    assert workshop.resumed(WAN, made, 3, loras=asked).meta["resumed_from_step"] == 3
    kept(workshop, "film", WAN_KEYS, rank=4)
    assert workshop.resumed(WAN, made, 3, loras=asked).meta["resumed_from_step"] == 0


@pytest.mark.parametrize("into", ["first", "second"])
def test_one_of_two_denoisers_takes_it(workshop: Workshop, into: str) -> None:
    workshop.install(A14B)
    path = kept(workshop, "film", WAN_KEYS)
    where = {"load_into_transformer_2": True} if into == "second" else {}
    made = workshop.run(A14B, loras=[{"name": "film", "into": into}])
    assert equal(made.frames, stock(workshop, A14B, [(path, 1.0)], **where))
    both = workshop.run(A14B, loras=[{"name": "film"}])
    assert not equal(both.frames, made.frames)


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"lora": [1.0]}))


def endless(path: Path) -> None:
    path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")


def talkative(path: Path) -> None:
    with path.open("wb") as file:
        file.write((9_000_000).to_bytes(8, "little") + b"{")
        file.truncate(10_000_000)


def of_dtype(path: Path, dtype: str, bits: int) -> None:
    """Matrices of zeros that the header says are of that kind."""
    shapes, tensors, end = {"A": [2, 24], "B": [24, 2]}, {}, 0
    for side, shape in shapes.items():
        begin, end = end, end + 48 * bits // 8
        name = f"transformer.blocks.0.attn1.to_q.lora_{side}.weight"
        tensors[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    head = json.dumps(tensors).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(end))


def empty(path: Path) -> None:
    head = json.dumps({}).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head)


WRONG = {
    "a pickle": (pickled, "a pickle"),
    "a header of 2^60 bytes": (endless, "claims 1152921504606846976 bytes"),
    "a header of 9 MB": (talkative, "claims 9000000 bytes, more than the 8000000"),
    **{
        f"numbers of kind {dtype}": (partial(of_dtype, dtype=dtype, bits=bits), f"lora_A.weight is {dtype}")
        for dtype, bits in {"F4": 4, "F8_E8M0": 8, "I64": 64, "C64": 64}.items()
    },
    "a scale of two parts": (
        lambda path: save_file({"transformer.blocks.0.attn1.to_q.alpha": torch.tensor(1j)}, path),
        "alpha is C64",
    ),
    "nothing in it": (empty, "nothing in the file fits"),
    "of another base model": (lambda path: lora(path, OF_EACH["ltx-condition"]), "not one for this model"),
    "of another size": (lambda path: lora(path, dict.fromkeys(WAN_KEYS, (32, 32))), "has 24 channels"),
    "in part of another model": (
        lambda path: lora(path, {**WAN_KEYS, "transformer.blocks.7.attn1.to_q": (24, 24)}),
        "there is no transformer.blocks.7.attn1.to_q",
    ),
    "of numbers that are none": (lambda path: lora(path, WAN_KEYS, value=float("nan")), "NaN"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_lora_for_this_model_is_named(workshop: Workshop, what: str) -> None:
    workshop.install(WAN)
    make, why = WRONG[what]
    kept(workshop, "good", WAN_KEYS)
    make(workshop.home.root / "loras" / "bad.safetensors")
    engine = Diffusion()
    with pytest.raises(BadInput, match=why.replace("^", r"\^")) as caught:
        workshop.run(WAN, engine, loras=[{"name": "good"}, {"name": "bad"}])
    assert caught.value.field == "/params/loras/1"
    assert str(workshop.folder) not in caught.value.detail
    # The good one of the two is off again.
    assert equal(workshop.run(WAN, engine).frames, workshop.stock(WAN))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn])
def test_one_may_be_of_narrow_numbers(workshop: Workshop, dtype: torch.dtype) -> None:
    workshop.install(WAN)
    path, layer = kept(workshop, "film", {}), "diffusion_model.blocks.0.self_attn.q"
    narrow = {f"{layer}.lora_down.weight": torch.eye(2, 24), f"{layer}.lora_up.weight": torch.full((24, 2), 0.5)}
    narrow = {name: tensor.to(dtype) for name, tensor in narrow.items()}
    # Some trainers write scales as whole numbers.
    save_file({**narrow, f"{layer}.alpha": torch.tensor(3)}, path)
    made = workshop.run(WAN, loras=[{"name": "film"}])
    save_file({name: tensor.float() for name, tensor in narrow.items()} | {f"{layer}.alpha": torch.tensor(3.0)}, path)
    assert equal(workshop.run(WAN, loras=[{"name": "film"}]).frames, made.frames)
    assert not equal(workshop.stock(WAN), made.frames)


def test_a_name_that_nobody_keeps_is_named(workshop: Workshop) -> None:
    workshop.install(WAN)
    with pytest.raises(BadInput, match=r"loras/film\.safetensors") as caught:
        workshop.run(WAN, loras=[{"name": "film"}])
    assert caught.value.field == "/params/loras/0"


ASSET = "asset_01hf7yat00e0g8m3v6k5b1c2d3"


def go(workshop: Workshop, asked: list[dict[str, Any]], files: list[Path], **how: Any) -> Any:
    """A run whose LoRAs are partly uploaded: the step's params as the plan leaves them, with the files beside."""
    named = [{"name": "second", **one, "asset": None} for one in asked]
    seen = workshop.watched(WAN, more={"loras": files}, loras=named, **how)
    for kept_, one in zip(seen.run.params["loras"], asked, strict=True):
        kept_ |= {"asset": one.get("asset"), "name": one.get("name")}
    return workshop.go(seen, Diffusion())
