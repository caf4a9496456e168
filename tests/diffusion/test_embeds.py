"""Embeddings of prompts that are kept: what comes back is what was made, and no more is kept than may be."""

from __future__ import annotations

import pytest
import torch

from workers.diffusion.embeds import PromptCache

KILOBYTE = 256


class Pipe:
    """Answers with a kilobyte of the prompt's length, and a mask beside it."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode_prompt(self, prompt: str, picture: torch.Tensor | None = None) -> tuple[torch.Tensor, None]:
        self.encoded.append(prompt)
        return torch.full((KILOBYTE,), float(len(prompt))), None


def ask(cache: PromptCache, pipe: Pipe, *prompts: str) -> list[torch.Tensor]:
    with cache.remembering(pipe):
        return [pipe.encode_prompt(prompt)[0] for prompt in prompts]


def test_what_is_done_to_an_answer_changes_no_later_one() -> None:
    cache, pipe = PromptCache(), Pipe()
    for answer in ask(cache, pipe, "cat", "cat", "cat"):
        assert answer.tolist() == [3.0] * KILOBYTE
        answer.zero_()
    assert pipe.encoded == ["cat"]


@pytest.mark.parametrize(
    ("most", "encoded"),
    [(4096, ["a", "bb", "ccc"]), (2048, ["a", "bb", "ccc", "bb"]), (1023, ["a", "bb", "a", "ccc", "a", "bb"])],
)
def test_those_asked_for_longest_ago_make_room(most: int, encoded: list[str]) -> None:
    pipe = Pipe()
    ask(PromptCache(most), pipe, "a", "bb", "a", "ccc", "a", "bb")
    assert pipe.encoded == encoded


def test_a_prompt_that_comes_with_a_picture_is_not_kept() -> None:
    cache, pipe = PromptCache(), Pipe()
    with cache.remembering(pipe):
        pipe.encode_prompt("cat", picture=torch.zeros(1))
        pipe.encode_prompt("cat", picture=torch.ones(1))
    assert pipe.encoded == ["cat", "cat"]
