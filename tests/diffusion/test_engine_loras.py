"""LoRAs through the engine: put on as diffusers does, taken off again, and refused when they are not for the model."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from cases import A14B, CASES, WAN
from safetensors.torch import load_file
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
    plain = workshop.pipe

    def pipe(one: Case) -> Any:
        made = plain(one)
        for index, (path, _) in enumerate(worn):
            made.load_lora_weights(load_file(path), adapter_name=f"a{index}", **where)
        network = made.transformer_2 if where else getattr(made, "transformer", None) or made.unet
        network.set_adapters([f"a{index}" for index in range(len(worn))], [scale for _, scale in worn])
        return made

    workshop.pipe = pipe  # type: ignore[method-assign]
    try:
        return workshop.stock(case)
    finally:
        workshop.pipe = plain  # type: ignore[method-assign]


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


def empty(path: Path) -> None:
    head = json.dumps({}).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head)


WRONG = {
    "a pickle": (pickled, "a pickle"),
    "a header of 2^60 bytes": (endless, "claims 1152921504606846976 bytes"),
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
