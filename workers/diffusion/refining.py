"""The second stage of a model that has one: latents of a smaller clip are enlarged, and refined by a second pass."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch.nn.functional import interpolate

from framewright.catalogue.diffusion import Diffusion, Upscale
from framewright.errors import EngineError
from framewright.params import parse_size


def smaller(facts: Diffusion, upscale: Upscale, params: Mapping[str, Any]) -> dict[str, Any]:
    """What the first pass is called with instead: a size of whole latents not above `first` of the one asked."""
    width, height = upscale.smaller(parse_size(params["size"]), facts.latents.spatial)
    return {"width": width, "height": height, "output_type": "latent"}


def larger(
    upscale: Upscale, given: Mapping[str, Any], small: Mapping[str, Any], latents: torch.Tensor
) -> dict[str, Any]:
    """What the second pass is called with, from the call of the first and the enlarged latents."""
    sides = {name: small[name] * upscale.factor for name in ("width", "height")}
    changed = {"latents": latents, "denoise_strength": upscale.strength, "num_inference_steps": upscale.steps}
    return {**given, **sides, **changed, **upscale.call}


class Upscaler:
    """The network that enlarges latents, read from `folder`; `upscale` is what the row says of it."""

    def __init__(self, upscale: Upscale, folder: Path, pipe: Any, device: torch.device) -> None:
        from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel

        weights = folder / "latent_upsampler"
        if not weights.is_dir():
            raise EngineError(f"{weights} is not there: without the weights of the upscaler nothing can be refined")
        network = LTXLatentUpsamplerModel.from_pretrained(
            weights, dtype=pipe.vae.dtype, local_files_only=True, use_safetensors=True
        )
        self.upscale = upscale
        self._pipe = getattr(diffusers, upscale.pipeline)(vae=pipe.vae, latent_upsampler=network.to(device).eval())

    def enlarged(self, latents: torch.Tensor, small: Mapping[str, Any]) -> torch.Tensor:
        """Latents of a clip that is `factor` times as wide and as high. Draws no random numbers."""
        answer = self._pipe(
            latents=latents,
            width=small["width"],
            height=small["height"],
            adain_factor=self.upscale.adain,
            tone_map_compression_ratio=self.upscale.tone_map,
            output_type="latent",
        )
        made: torch.Tensor = answer.frames
        return made


def scaled(frames: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Frames (T, 3, H, W) in the size asked for, (width, height); they are the same where they have it."""
    width, height = size
    if frames.shape[2:] == (height, width):
        return frames
    one_by_one = [interpolate(frame[None].float(), (height, width), mode="bicubic", antialias=True) for frame in frames]
    return torch.cat(one_by_one).clamp_(0, 1)
