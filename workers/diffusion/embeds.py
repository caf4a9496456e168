"""Prompt embeddings kept across runs, so that a prompt asked twice is encoded once.

The text encoders of these models are 1 to 12 billion parameters: on a GPU they cost seconds, offloaded half a minute.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch.utils._pytree import tree_flatten, tree_map

_PLAIN: Final = (str, int, float, bool, type(None), torch.dtype, torch.device)


class PromptCache:
    """Answers of one model's `encode_prompt`, the least recently used dropped beyond `most` bytes."""

    def __init__(self, most: int = 256 << 20) -> None:
        self._most = most
        self._kept: OrderedDict[Any, Any] = OrderedDict()
        self._bytes = 0
        self.hits = self.misses = 0

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
            self.hits += 1
            self._kept.move_to_end(key)
        else:
            self.misses += 1
            answer = tree_map(_detached, encode())
            self._kept[key] = answer
            self._bytes += _size(answer)
            while self._bytes > self._most and len(self._kept) > 1:
                self._bytes -= _size(self._kept.popitem(last=False)[1])
            return answer
        return self._kept[key]


def _key(kind: str, given: dict[str, Any]) -> Any:
    parts = []
    for name, value in sorted(given.items()):
        leaves, form = tree_flatten(value)
        if not all(isinstance(leaf, _PLAIN) for leaf in leaves):
            return None
        parts.append((name, str(form), tuple(leaves)))
    return (kind, tuple(parts))


def _detached(value: Any) -> Any:
    return value.detach() if torch.is_tensor(value) else value


def _size(answer: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_flatten(answer)[0] if torch.is_tensor(leaf))
