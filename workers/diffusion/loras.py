"""LoRA weights for one run: checked before and after they are read, put on the denoiser, and taken off again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from diffusers.loaders.lora_base import set_adapters_for_text_encoder
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from safetensors.torch import load_file

from framewright.catalogue.diffusion import Lora
from framewright.errors import BadInput, WeightsRefused
from framewright.models.headers import MOST_SMALL_HEADER, read_header
from workers.engines.run import Run

FOLDER: Final = "loras"
"""Below the models directory: where an operator keeps those that go by a name."""
NUMBERS: Final = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
_WHOLE: Final = frozenset({"I64", "I32", "I16", "I8", "U8"})
"""What some trainers write scales in, which are single numbers."""
_MATRIX: Final = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.(?:default\.)?weight")
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Asked:
    """One LoRA of a request: `field` names it there; `into` says which of two denoisers takes it."""

    field: str
    path: Path
    scale: float
    into: Literal["both", "first", "second"] = "both"

    def digest(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def gathered(run: Run) -> list[Asked]:
    """The LoRAs of a run, each file's header checked; `BadInput` names the one that is not there or no such weights."""
    said: Sequence[Mapping[str, Any]] = run.params.get("loras") or ()
    given = run.inputs.get("loras") or []
    files = iter(given if isinstance(given, list) else [given])
    found: list[Asked] = []
    for index, one in enumerate(said):
        field = f"/params/loras/{index}"
        path = next(files) if one.get("asset") is not None else _kept(run, one["name"], field)
        try:
            tensors = read_header(path, MOST_SMALL_HEADER).tensors
        except WeightsRefused as error:
            why = error.detail.replace(str(path), "the file")
            raise BadInput(f"these are no LoRA weights: {why}", field=field) from None
        for name, tensor in tensors.items():
            if tensor.dtype not in NUMBERS and (tensor.shape or tensor.dtype not in _WHOLE):
                why = f"{name[:120]} is {tensor.dtype}, and it has to be one of {', '.join(sorted(NUMBERS))}"
                raise BadInput(f"these are no LoRA weights: {why}", field=field)
        found.append(Asked(field, path, float(one["scale"]), one.get("into", "both")))
    return found


@contextmanager
def applied(pipe: Any, rule: Lora | None, asked: Sequence[Asked]) -> Iterator[None]:
    """While it lasts, the networks of `pipe` work with these LoRAs at their scales; afterwards without any.

    `BadInput` names one whose numbers are none (NaN), or whose keys or shapes are not those of this model.
    """
    if not asked or rule is None:
        yield
        return
    # They freeze what they lie on, and kernels are chosen by that: the last bits of later runs would be others.
    learning = [weight for part in _loadable(pipe) for weight in part.parameters() if weight.requires_grad]
    try:
        with _unhooked(pipe):
            worn: dict[str, list[tuple[str, float]]] = {}
            for index, one in enumerate(asked):
                _put_on(pipe, rule, one, f"lora_{index}", worn)
        for part, pairs in worn.items():
            network, names, scales = getattr(pipe, part), [name for name, _ in pairs], [scale for _, scale in pairs]
            if hasattr(network, "load_lora_adapter"):
                network.set_adapters(names, scales)
            else:
                set_adapters_for_text_encoder(names, network, scales)
        yield
    finally:
        pipe.unload_lora_weights()
        for weight in learning:
            weight.requires_grad_(True)


def of_words(asked: Sequence[Asked]) -> str:
    """Tells embeddings of prompts made with these LoRAs from those made without, as some change the text encoder."""
    return "" if not asked else repr([(one.digest(), one.scale) for one in asked])


@contextmanager
def _unhooked(pipe: Any) -> Iterator[None]:
    """While it lasts, no part moves as a whole when it is called: diffusers would put such hooks back on its own,
    one LoRA at a time and for the device that it guesses."""
    if not getattr(pipe, "_all_hooks", None):
        yield
        return
    device = pipe._offload_device
    pipe.remove_all_hooks()
    try:
        yield
    finally:
        pipe.enable_model_cpu_offload(device=device)


def _loadable(pipe: Any) -> list[torch.nn.Module]:
    parts = [getattr(pipe, name, None) for name in pipe._lora_loadable_modules]
    return [part for part in parts if part is not None]


def _kept(run: Run, name: str, field: str) -> Path:
    path = None if run.models is None else run.models.root / FOLDER / f"{name}.safetensors"
    if path is None or not path.is_file():
        raise BadInput(f"this worker has no LoRA of that name; it would be {FOLDER}/{name}.safetensors", field=field)
    return path


def _put_on(pipe: Any, rule: Lora, one: Asked, name: str, worn: dict[str, list[tuple[str, float]]]) -> None:
    weights = _numbers(one.path)
    if not all(torch.isfinite(tensor.float()).all() for tensor in weights.values()):
        raise BadInput("the LoRA holds numbers that are none (NaN or infinite)", field=one.field)
    try:
        read = pipe.lora_state_dict(dict(weights))
    except Exception as error:  # each converter stumbles in its own way over keys that it does not know
        raise _foreign(one, f"its keys are not known ({error})") from error
    second = rule.second and getattr(pipe, "transformer_2", None) is not None
    parts = _parts(pipe, one, read[0] if isinstance(read, tuple) else read)
    if second and one.into != "first":
        _load(pipe, one, weights, name, {"load_into_transformer_2": True})
        worn.setdefault("transformer_2", []).append((name, one.scale))
    if not second or one.into != "second":
        _load(pipe, one, weights, name, {})
        for part in parts:
            worn.setdefault(part, []).append((name, one.scale))


def _numbers(path: Path) -> Weights:
    """What the file holds; numbers of 8 bits, which nothing can be computed with, in 32."""
    held = load_file(path).items()
    return {name: tensor.float() if tensor.dtype.itemsize == 1 else tensor for name, tensor in held}


def _load(pipe: Any, one: Asked, weights: Weights, name: str, where: Mapping[str, bool]) -> None:
    try:
        pipe.load_lora_weights(dict(weights), adapter_name=name, **where)
    except (ValueError, KeyError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise _foreign(one, str(error).splitlines()[0][:200]) from error


def _parts(pipe: Any, one: Asked, state: Mapping[str, torch.Tensor]) -> list[str]:
    """The components that the LoRA changes; every one of its matrices has a layer there that it fits."""
    parts: dict[str, None] = {}
    for key, tensor in _peft(state).items():
        found = _MATRIX.fullmatch(key)
        if found is None:
            continue
        part, _, inner = found["module"].partition(".")
        network = getattr(pipe, part, None)
        layer = _layer(network, inner) if part in pipe._lora_loadable_modules and network is not None else None
        if layer is None:
            raise _foreign(one, f"there is no {found['module'][:120]} in it")
        # One matrix goes from the layer's input to the rank, the other from the rank to its output.
        theirs, ours = (tensor.shape[1], layer.shape[1]) if found["side"] == "A" else (tensor.shape[0], layer.shape[0])
        if theirs != ours:
            raise _foreign(one, f"{found['module'][:120]} has {ours} channels, and the LoRA's {theirs}")
        parts[part] = None
    if not parts:
        raise _foreign(one, "nothing in the file fits a layer of it")
    return list(parts)


def _peft(state: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """All keys in the one form that is loaded in the end; alphas and the like keep theirs."""
    if any(".lora_A." in key for key in state):
        return state
    return convert_unet_state_dict_to_peft(dict(state))  # type: ignore[no-any-return]


def _layer(network: torch.nn.Module, path: str) -> torch.Tensor | None:
    try:
        layer = network.get_submodule(path)
    except AttributeError:
        return None
    # Where another LoRA lies on it already, the layer is below.
    weight = getattr(getattr(layer, "base_layer", layer), "weight", None)
    return weight if torch.is_tensor(weight) and weight.ndim > 1 else None


def _foreign(one: Asked, why: str) -> BadInput:
    return BadInput(f"the LoRA is not one for this model: {why}", field=one.field)
