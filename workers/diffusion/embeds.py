"""Prompt embeddings kept across runs, so that a prompt asked twice is encoded once.

The text encoders of these models are 1 to 12 billion parameters: on a GPU they cost seconds, offloaded half a minute.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.utils._pytree import tree_flatten, tree_map

_PLAIN: Final = (str, int, float, bool, type(None), torch.dtype, torch.device)


@dataclass(frozen=True, slots=True)
class _Away:
    """A tensor in the memory of the machine, and the device that it came from."""

    tensor: torch.Tensor
    device: torch.device


class PromptCache:
    """Answers of one model's `encode_prompt`, kept off the device, the least recently used dropped beyond `most` bytes.

    They are tens of megabytes for most models, and hundreds for those that use every layer of their text encoder.
    """

    def __init__(self, most: int = 1 << 30) -> None:
        self._most = most
        self._kept: OrderedDict[Any, Any] = OrderedDict()
        self._bytes = 0

    @contextmanager
    def remembering(self, pipe: Any, words: str = "") -> Iterator[None]:
        """While it lasts, `pipe.encode_prompt` answers from here; pipelines without prompts are left alone.

        `words` names what was changed in the text encoders.
        """
        original = getattr(pipe, "encode_prompt", None)
        if original is None:
            yield
            return
        signature, kind = inspect.signature(original), type(pipe).__name__

        def encode_prompt(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            key = _key(f"{kind} {words}", given)
            # A prompt that comes with a picture or with embeddings is nothing to look up by.
            if key is None:
                return original(*args, **kwargs)
            return self._answer(key, lambda: original(*args, **kwargs))

        pipe.encode_prompt = encode_prompt
        try:
            yield
        finally:
            del pipe.encode_prompt

    def _answer(self, key: Any, encode: Any) -> Any:
        if key in self._kept:
            self._kept.move_to_end(key)
            return tree_map(_back, self._kept[key])
        answer = encode()
        self._kept[key] = tree_map(_away, answer)
        self._bytes += _size(self._kept[key])
        while self._bytes > self._most:
            self._bytes -= _size(self._kept.popitem(last=False)[1])
        return answer


def _key(kind: str, given: dict[str, Any]) -> Any:
    parts = []
    for name, value in sorted(given.items()):
        leaves, form = tree_flatten(value)
        if not all(isinstance(leaf, _PLAIN) for leaf in leaves):
            return None
        parts.append((name, str(form), tuple(leaves)))
    return (kind, tuple(parts))


def _away(value: Any) -> Any:
    return _Away(value.detach().to("cpu", copy=True), value.device) if torch.is_tensor(value) else value


def _back(value: Any) -> Any:
    """A copy, so that nobody changes what is kept."""
    return value.tensor.to(value.device, copy=True) if isinstance(value, _Away) else value


def _size(kept: Any) -> int:
    return sum(leaf.tensor.nbytes for leaf in tree_flatten(kept)[0] if isinstance(leaf, _Away))
