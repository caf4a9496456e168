"""A still of a clip that is being denoised: one latent frame of x0, decoded by the VAE that is at hand anyway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from workers.diffusion.stepping import Step
from workers.diffusion.x0 import predicted


@dataclass(frozen=True, slots=True)
class Look:
    """What a preview has to know: the model's family and layout of latents, and the clip's frames and size (px).

    `decode_timestep` is what the row tells VAEs that want to know how much noise is left (LTX-Video from 0.9.1 on). No
    noise is added here.
    """

    family: str
    layout: str
    frames: int
    size: tuple[int, int]
    decode_timestep: float


@torch.no_grad()
def picture(pipe: Any, step: Step, how: Look, *, place: float = 0.5) -> Image.Image | None:
    """The clip as `step` foresees it, at `place` (0 the first latent frame that is denoised, 1 the last).

    None where the VAE is not on the device, or the scheduler tells no x0. The run is not changed by it: random numbers
    that a decoder draws are given back. The frame is decoded alone, so it can differ a little from that of the clip.
    """
    if not _resident(pipe):
        return None
    found = predicted(step)
    if found is None:
        return None
    latents = _frames_apart(pipe, how, found)
    chosen = round(place * (latents.shape[2] - 1))
    latent = _DENORMALISED[how.family](pipe, latents[:1, :, chosen : chosen + 1])
    devices = [latent.device] if latent.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        decoded = _decoded(pipe, how, latent)
    return _image(decoded)


def _resident(pipe: Any) -> bool:
    """Whether the VAE has its weights where the pipeline computes, and keeps them there."""
    vae = pipe.vae
    # Hooks of accelerate and of diffusers move weights in and out at each call.
    if hasattr(vae, "_hf_hook") or any(_moves(module) for module in vae.modules()):
        return False
    there = next(vae.parameters()).device.type
    return bool(there != "meta" and there == torch.device(pipe._execution_device).type)


def _moves(module: torch.nn.Module) -> bool:
    registry = getattr(module, "_diffusers_hook", None)
    return registry is not None and registry.get_hook("group_offloading") is not None


def _frames_apart(pipe: Any, how: Look, x0: torch.Tensor) -> torch.Tensor:
    """As (batch, channels, frames, height, width), whatever the pipeline's own order is."""
    if how.layout == "bfchw":
        return x0.permute(0, 2, 1, 3, 4)
    if x0.ndim != 3:  # also LTX from a picture, which steps all frames but the first, unpacked
        return x0
    (width, height), ratio = how.size, pipe.vae_spatial_compression_ratio
    shape = (how.frames - 1) // pipe.vae_temporal_compression_ratio + 1, height // ratio, width // ratio
    patch, patch_t = pipe.transformer_spatial_patch_size, pipe.transformer_temporal_patch_size
    tokens = shape[0] * shape[1] * shape[2] // (patch * patch * patch_t)
    # Tokens of conditions come before those of the clip.
    unpacked: torch.Tensor = pipe._unpack_latents(x0[:, -tokens:], *shape, patch, patch_t)
    return unpacked


def _by_channel(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    """LTX-Video and LTX-2: mean and deviation of each channel are buffers of the VAE."""
    vae = pipe.vae
    scaled: torch.Tensor = pipe._denormalize_latents(
        latents, vae.latents_mean, vae.latents_std, vae.config.scaling_factor
    )
    return scaled


def _by_config(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    """Wan, and Mochi where its VAE says so: mean and deviation of each channel stand in the configuration."""
    config = pipe.vae.config
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    factor = config.get("scaling_factor") or 1.0
    if mean is None or deviation is None:
        return _by_factor(pipe, latents)
    spread, shift = (latents.new_tensor(values).view(1, -1, 1, 1, 1) for values in (deviation, mean))
    return latents * spread / factor + shift


def _by_factor(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    return latents / float(pipe.vae.config.scaling_factor)


_DENORMALISED: Mapping[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "ltx": _by_channel,
    "ltx2": _by_channel,
    "wan": _by_config,
    "mochi": _by_config,
    "hunyuan": _by_factor,
    "hunyuan15": _by_factor,
    "cogvideox": _by_factor,
    "svd": _by_factor,
    "animatediff": _by_factor,
}


def _decoded(pipe: Any, how: Look, latent: torch.Tensor) -> torch.Tensor:
    """(channels, height, width) in -1..1, from one latent frame."""
    vae = pipe.vae
    latent = latent.to(vae.dtype)
    match how.family:
        case "svd":
            return _first(vae.decode(latent[:, :, 0], num_frames=1, return_dict=False))
        case "animatediff":
            return _first(vae.decode(latent[:, :, 0], return_dict=False))
        case "ltx" | "ltx2":
            told = latent.new_tensor([how.decode_timestep]) if vae.config.timestep_conditioning else None
            return _first(vae.decode(latent, told, return_dict=False))
        case _:
            return _first(vae.decode(latent, return_dict=False))


def _first(answer: tuple[torch.Tensor, ...]) -> torch.Tensor:
    clip = answer[0][0]
    return clip[:, 0] if clip.ndim == 4 else clip


def _image(decoded: torch.Tensor) -> Image.Image:
    levels = decoded.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy())
