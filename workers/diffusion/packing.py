"""What a scheduler or a denoiser answered, as plain data that can be saved and trusted, and back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._pytree import tree_map


def packed(value: Any) -> Any:
    """A copy on the CPU of whatever holds tensors; outputs that are objects become dicts. Devices are remembered."""
    if torch.is_tensor(value):
        return {"_tensor": value.detach().to("cpu", copy=True), "_device": value.device.type}
    if hasattr(value, "prev_sample"):
        held = value if isinstance(value, dict) else vars(value)
        return {"_output": {name: packed(one) for name, one in held.items() if one is not None}}
    if isinstance(value, tuple | list):
        return type(value)(packed(one) for one in value)
    if isinstance(value, dict):
        return {name: packed(one) for name, one in value.items()}
    return value


def unpacked(value: Any, device: torch.device) -> Any:
    """What was packed, tensors copied to where they were: the CPU or `device`."""
    if isinstance(value, dict):
        if "_tensor" in value:
            tensor = value["_tensor"].clone()
            return tensor if value["_device"] == "cpu" else tensor.to(device)
        if "_output" in value:
            return SimpleNamespace(**{name: unpacked(one, device) for name, one in value["_output"].items()})
        return {name: unpacked(one, device) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(unpacked(one, device) for one in value)
    return value


def shape(answer: Any) -> Any:
    """What a denoiser answered, each tensor as its shape and dtype."""
    if hasattr(answer, "sample"):
        return {"_sample": shape(answer.sample)}
    return tree_map(
        lambda one: (
            {"_shape": list(one.shape), "_dtype": str(one.dtype).removeprefix("torch.")}
            if torch.is_tensor(one)
            else one
        ),
        answer,
    )


def blank(shape: Any, device: torch.device) -> Any:
    """Zeros of the shape given."""
    if isinstance(shape, dict):
        if "_sample" in shape:
            return SimpleNamespace(sample=blank(shape["_sample"], device))
        return torch.zeros(shape["_shape"], dtype=getattr(torch, shape["_dtype"]), device=device)
    if isinstance(shape, tuple | list):
        return type(shape)(blank(one, device) for one in shape)
    return shape
