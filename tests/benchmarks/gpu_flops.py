"""How much arithmetic a clip is, counted on networks without weights, and how much of it this device can do."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

import torch
from gpu_models import Built, Case
from torch.utils.flop_counter import FlopCounterMode

TERA: Final = 1e12
_META: Final = torch.device("meta")


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations of a clip; a product and its sum are two. `parameters` is how many the denoiser has."""

    text: int
    step: int
    vae: int
    steps: int
    parameters: int

    @property
    def denoise(self) -> int:
        return self.step * self.steps

    @property
    def clip(self) -> int:
        return self.text + self.denoise + self.vae


def counted(case: Case) -> Work:
    """The work of one clip of that case, in seconds and without memory to speak of."""
    built = case.build(_META)
    pipe = built.pipe("t2v", min(case.size))
    guided = 2 if case.guidance > 1 else 1
    words = torch.zeros(1, case.tokens, dtype=torch.long, device=_META)
    # A mask would be looked into; one that hides nothing changes no count.
    text = _flops(pipe.text_encoder, words)
    shape = case.tokens_of(built)
    step, latents = _ltx(case, pipe, shape, guided) if case.facts.family == "ltx" else _wan(case, pipe, shape)
    if case.facts.family != "ltx":
        step *= guided
    told = (torch.zeros(1, device=_META),) if pipe.vae.config.get("timestep_conditioning") else ()
    vae = _flops(pipe.vae.decode, latents.to(pipe.vae.dtype), *told)
    parameters = sum(one.numel() for one in pipe.transformer.parameters())
    return Work(text * guided, step, vae, case.steps, parameters)


def _ltx(case: Case, pipe: Any, shape: tuple[int, int, int], batch: int) -> tuple[int, torch.Tensor]:
    net, tokens = pipe.transformer, shape[0] * shape[1] * shape[2]
    flops = _flops(
        net,
        hidden_states=torch.zeros(batch, tokens, net.config.in_channels, dtype=net.dtype, device=_META),
        encoder_hidden_states=_text(case, net, net.config.caption_channels, batch),
        timestep=torch.zeros(batch, 1, device=_META),
        encoder_attention_mask=torch.zeros(batch, case.tokens, device=_META),
        video_coords=torch.zeros(batch, 3, tokens, device=_META),
    )
    return flops, torch.zeros(1, net.config.in_channels, *shape, device=_META)


def _wan(case: Case, pipe: Any, shape: tuple[int, int, int]) -> tuple[int, torch.Tensor]:
    net = pipe.transformer
    latents = torch.zeros(1, net.config.in_channels, *shape, dtype=net.dtype, device=_META)
    flops = _flops(
        net,
        hidden_states=latents,
        timestep=torch.zeros(1, dtype=torch.long, device=_META),
        encoder_hidden_states=_text(case, net, net.config.text_dim, 1),
    )
    return flops, latents


def _text(case: Case, net: Any, width: int, batch: int) -> torch.Tensor:
    return torch.zeros(batch, case.tokens, width, dtype=net.dtype, device=_META)


def _flops(call: Any, *args: Any, **kwargs: Any) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(*args, **kwargs)
    return int(counter.get_total_flops())


def ceiling(device: torch.device, *, rounds: int = 5) -> dict[str, Any]:
    """The most FLOP/s that a product of large random matrices reaches here, in the precision that denoisers run in."""
    side, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (768, torch.float32)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best, calls = float("inf"), 20 if device.type == "cuda" else 3
    for _ in range(rounds + 1):
        synchronised(device)
        begun = time.perf_counter()
        for _ in range(calls):
            left @ right
        synchronised(device)
        best = min(best, (time.perf_counter() - begun) / calls)
    return {"tflops": 2 * side**3 / best / TERA, "dtype": str(dtype).removeprefix("torch."), "side": side}


def synchronised(device: torch.device) -> None:
    """Waits until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def weights_gb(built: Built) -> float:
    modules = [one for one in built.pipe("t2v", 1).components.values() if isinstance(one, torch.nn.Module)]
    return sum(tensor.nbytes for module in modules for tensor in module.parameters()) / 1e9
