"""Tokenizers, text and image encoders and pictures that the tiny models share; nothing comes from a hub."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

_WORDS = (
    "a",
    "the",
    "cat",
    "dog",
    "robot",
    "dancing",
    "sea",
    "wave",
    "red",
    "blue",
    "film",
    "of",
    "on",
    "in",
    ",",
    ".",
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{m['role']}}\n{% if m['content'] is string %}{{m['content']}}{% else %}"
    "{% for c in m['content'] %}{{c['text']}}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def seeded(make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`make(*args, **kwargs)` ready for inference, with the same random weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        random.seed(0)
        return make(*args, **kwargs).eval()


def spread(buffer: torch.Tensor, low: float, high: float) -> None:
    """Fills a buffer with distinct values, so that a test sees when it is left out or given to the wrong channel."""
    buffer.copy_(torch.linspace(low, high, buffer.numel()).reshape(buffer.shape))


def picture(width: int = 32, height: int = 32, seed: int = 0) -> Image.Image:
    """Noise, the same for the same seed."""
    return Image.fromarray(np.random.RandomState(seed).randint(0, 255, (height, width, 3), dtype="uint8"))


def film(frames: int, width: int = 32, height: int = 32) -> list[Image.Image]:
    return [picture(width, height, seed) for seed in range(frames)]


def flow_match(**config: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**config)


def unipc() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def t5_tokenizer() -> Any:
    """A unigram tokenizer of a few words and single letters."""
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -2.0)]
    vocabulary += [("▁" + word, -3.0) for word in _WORDS]
    vocabulary += [(letter, -6.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.T5Tokenizer(tokenizer_object=tokenizer, extra_ids=0, model_max_length=512, **special)


def t5_encoder(kind: str = "T5", vocabulary: int = 128) -> Any:
    """The encoder of T5 or UMT5, 32 wide."""
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, dropout_rate=0.0
    )
    return seeded(getattr(transformers, f"{kind}EncoderModel"), config)


def byte_tokenizer(kind: str, bos: str, eos: str, pad: str, extra: Sequence[str] = ()) -> Any:
    """A byte-level tokenizer without merges: special tokens first, then one token a byte."""
    names = list(dict.fromkeys([bos, eos, pad, "<unk>", *extra])) + sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {name: place for place, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])]
    )
    special = {"bos_token": bos, "eos_token": eos, "pad_token": pad, "unk_token": "<unk>"}
    return getattr(transformers, kind)(
        tokenizer_object=tokenizer, additional_special_tokens=list(extra), model_max_length=1024, **special
    )


def clip_tokenizer() -> Any:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {name: place for place, name in enumerate(names)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def clip_text(layers: int = 2) -> Any:
    config = transformers.CLIPTextConfig(
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
        hidden_size=8,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=layers,
        vocab_size=520,
        projection_dim=32,
        max_position_embeddings=77,
    )
    return seeded(transformers.CLIPTextModel, config)


def clip_vision(hidden: int, projection: int, image: int, patch: int, heads: int) -> Any:
    """A CLIP image encoder of `(image / patch)² + 1` tokens."""
    config = transformers.CLIPVisionConfig(
        hidden_size=hidden,
        projection_dim=projection,
        num_hidden_layers=2,
        num_attention_heads=heads,
        image_size=image,
        intermediate_size=16,
        patch_size=patch,
    )
    return seeded(transformers.CLIPVisionModelWithProjection, config)


def clip_images(size: int) -> Any:
    return transformers.CLIPImageProcessor(crop_size=size, size=size)
