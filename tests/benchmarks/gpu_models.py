"""Models of full size with random weights, made where they are to run; nothing comes from a hub.

How long a step takes does not depend on what the weights are, as long as they are not zeros: products of zeros draw
less power, and a GPU then runs measurably faster. Sizes are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import diffusers
import torch
import transformers

from framewright import catalogue
from framewright.catalogue.diffusion import Diffusion
from workers.diffusion.loading import Loaded

diffusers.utils.logging.set_verbosity_error()
Maker = Callable[..., Any]
_SHORT: Final = 8
"""Tokens of a text that is not filled up."""
_T5: Final = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": False,
    "use_cache": False,
}
_T5_TINY: Final = {**_T5, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
_LTX_VAE: Final = {
    "latent_channels": 128,
    "block_out_channels": (128, 256, 512, 1024, 2048),
    "down_block_types": ("LTXVideo095DownBlock3D",) * 4,
    "decoder_block_out_channels": (256, 512, 1024),
    "layers_per_block": (4, 6, 6, 2, 2),
    "decoder_layers_per_block": (5, 5, 5, 5),
    "spatio_temporal_scaling": (True,) * 4,
    "decoder_spatio_temporal_scaling": (True,) * 3,
    "decoder_inject_noise": (False,) * 4,
    "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
    "upsample_residual": (True,) * 3,
    "upsample_factor": (2, 2, 2),
    "timestep_conditioning": True,
    "patch_size": 4,
    "patch_size_t": 1,
    "resnet_norm_eps": 1e-6,
    "scaling_factor": 1.0,
    "encoder_causal": True,
    "decoder_causal": False,
    "spatial_compression_ratio": 32,
    "temporal_compression_ratio": 8,
}
_LTX_VAE_TINY: Final = {
    **_LTX_VAE,
    "block_out_channels": (8, 8, 8, 8, 16),
    "decoder_block_out_channels": (8, 16, 32),
    "layers_per_block": (1,) * 5,
    "decoder_layers_per_block": (1,) * 4,
}
_LTX_TINY: Final = {
    "num_layers": 2,
    "num_attention_heads": 4,
    "attention_head_dim": 8,
    "cross_attention_dim": 32,
    "caption_channels": 32,
}
_WAN_TINY: Final = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "ffn_dim": 32, "text_dim": 32}
_WAN_SMALL: Final = {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}


class AnyWords:
    """A tokenizer that makes any text a full row of random tokens, the same for the same text."""

    model_max_length = 512

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary

    def __call__(self, text: str | list[str], max_length: int | None = None, **_: Any) -> Any:
        rows = [text] if isinstance(text, str) else text
        drawn = [torch.Generator().manual_seed(sum(row.encode())) for row in rows]
        ids = torch.stack([torch.randint(3, self._vocabulary, (max_length or _SHORT,), generator=one) for one in drawn])
        return transformers.BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    def batch_decode(self, ids: torch.Tensor) -> list[str]:
        return [""] * len(ids)


class Built(Loaded):
    """A model that never was on disk: the pipeline it is given lies on the device already."""

    def __init__(self, facts: Diffusion, pipe: Any, device: torch.device) -> None:
        # What this replaces reads weights, which there are none of.
        self.facts, self.device, self.revision, self.profile = facts, device, "", facts.profiles[0]
        self.name, self.mend = "this model", "the weights are random"
        self._upscaler = None
        self._config = dict(pipe.scheduler.config)
        self._pipes = {facts.load_as: pipe}
        pipe.set_progress_bar_config(disable=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One clip of one model: `row` is that of the catalogue, whose facts decide how the worker calls it."""

    row: str
    make: Maker
    size: tuple[int, int]
    frames: int
    steps: int
    guidance: float
    tokens: int
    networks: Mapping[str, Any]

    @property
    def facts(self) -> Diffusion:
        facts = catalogue.named(self.row).diffusion
        assert facts is not None
        return facts

    @property
    def params(self) -> dict[str, Any]:
        """The params of a request, as the worker gets them; prompt and seed come with each clip."""
        shape = {"size": f"{self.size[0]}x{self.size[1]}", "frames": self.frames, "fps": str(self.facts.fps)}
        return {**shape, "task": "t2v", "steps": self.steps, "guidance": self.guidance}

    def build(self, device: torch.device) -> Built:
        """The model on that device, with random weights in the precision that its row asks for."""
        torch.manual_seed(0)
        # 16 bits are slow on most CPUs, and nothing is learnt from that.
        lowered = device.type != "cpu"
        kinds = {name: getattr(torch, kind) if lowered else torch.float32 for name, kind in self.facts.dtypes.items()}
        pipe = self.make(partial(_made, device, kinds), **self.networks)
        for module in pipe.components.values():
            if isinstance(module, torch.nn.Module) and device.type != "meta":
                _filled(module)
        return Built(self.facts, pipe, device)

    def tokens_of(self, built: Built) -> tuple[int, int, int]:
        """Latent frames, rows and columns of the clip."""
        pipe = built.pipe("t2v", min(self.size))
        time, space = (
            (pipe.vae_temporal_compression_ratio, pipe.vae_spatial_compression_ratio)
            if self.facts.family == "ltx"
            else (pipe.vae_scale_factor_temporal, pipe.vae_scale_factor_spatial)
        )
        return (self.frames - 1) // time + 1, self.size[1] // space, self.size[0] // space


def _made(
    device: torch.device, dtypes: Mapping[str, torch.dtype], part: str, kind: Any, *args: Any, **config: Any
) -> Any:
    """`kind(*args, **config)` on the device, in the precision of that part; what a model keeps in 32 bits stays so."""
    usual, wanted = torch.get_default_dtype(), dtypes.get(part, dtypes["default"])
    torch.set_default_dtype(wanted)
    try:
        with device:
            module = kind(*args, **config)
    finally:
        torch.set_default_dtype(usual)
    # `_keep_in_fp32_modules` of transformers is about 16-bit floats of the other kind.
    fine = (getattr(module, "_keep_in_fp32_modules", None) or ()) if isinstance(module, diffusers.ModelMixin) else ()
    # Not its own `to`, which warns of what is mended below.
    torch.nn.Module.to(module, device=device, dtype=wanted).eval().requires_grad_(False)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if any(one in name.split(".") for one in fine) and tensor.is_floating_point():
            tensor.data = tensor.data.float()
    return module


def _filled(module: torch.nn.Module) -> None:
    """Matrices that begin as zeros, for training's sake, get values."""
    for weight in module.parameters():
        if weight.ndim > 1 and not weight.any():
            weight.data.normal_(std=0.02)


def _ltx(
    made: Maker, *, transformer: Mapping[str, Any], vae: Mapping[str, Any], text: Mapping[str, Any], words: int
) -> Any:
    return diffusers.LTXConditionPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=made("vae", diffusers.AutoencoderKLLTXVideo, **vae),
        text_encoder=made("text_encoder", transformers.T5EncoderModel, transformers.T5Config(vocab_size=words, **text)),
        tokenizer=AnyWords(words),
        transformer=made("transformer", diffusers.LTXVideoTransformer3DModel, **transformer),
    )


def _wan(
    made: Maker, *, transformer: Mapping[str, Any], vae: Mapping[str, Any], text: Mapping[str, Any], words: int
) -> Any:
    return diffusers.WanPipeline(
        tokenizer=AnyWords(words),
        text_encoder=made(
            "text_encoder", transformers.UMT5EncoderModel, transformers.UMT5Config(vocab_size=words, **text)
        ),
        vae=made("vae", diffusers.AutoencoderKLWan, **vae),
        scheduler=diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        transformer=made("transformer", diffusers.WanTransformer3DModel, **transformer),
    )


def _case(
    make: Maker, row: str, size: tuple[int, int], frames: int, *, steps: int, guidance: float, **networks: Any
) -> Case:
    tokens = 256 if make is _ltx else 512
    return Case(
        row=row,
        make=make,
        size=size,
        frames=frames,
        steps=steps,
        guidance=guidance,
        tokens=tokens,
        networks=networks,
    )


_LTX = {"transformer": {}, "vae": _LTX_VAE, "text": _T5, "words": 32128}
_LTX_SMOKE = {"transformer": _LTX_TINY, "vae": _LTX_VAE_TINY, "text": _T5_TINY, "words": 64}
_WAN: dict[str, Any] = {"vae": {}, "text": _T5, "words": 256384}
_WAN_SMOKE = {"transformer": _WAN_TINY, "vae": {"base_dim": 8}, "text": _T5_TINY, "words": 64}
# Cheapest first, so that a short budget still measures something.
CASES: Final[Mapping[str, Case]] = {
    "ltx-2b-8": _case(_ltx, "ltx-video-0.9.6-2b-distilled", (768, 512), 121, steps=8, guidance=1.0, **_LTX),
    "ltx-2b-30": _case(_ltx, "ltx-video-0.9.5-2b", (768, 512), 121, steps=30, guidance=3.0, **_LTX),
    "wan-1.3b-480p": _case(
        _wan, "wan-2.1-t2v-1.3b", (832, 480), 81, steps=20, guidance=5.0, transformer=_WAN_SMALL, **_WAN
    ),
    "wan-14b-480p": _case(_wan, "wan-2.1-t2v-14b", (832, 480), 81, steps=6, guidance=5.0, transformer={}, **_WAN),
}
TINY: Final[Mapping[str, Case]] = {
    "tiny": _case(_ltx, "ltx-video-0.9.5-2b", (64, 64), 9, steps=4, guidance=3.0, **_LTX_SMOKE),
    "tiny-wan": _case(_wan, "wan-2.1-t2v-1.3b", (64, 64), 9, steps=4, guidance=5.0, **_WAN_SMOKE),
}
