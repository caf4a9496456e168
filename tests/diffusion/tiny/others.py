"""Tiny CogVideoX, Mochi, Stable Video Diffusion and AnimateDiff."""

from __future__ import annotations

from typing import Any

import diffusers

from . import parts
from .facts import PROMPT, Tiny

_BETAS = {"beta_start": 0.00085, "beta_end": 0.012}


def _cogvideox(pipeline: str, scheduler: type[Any]) -> Any:
    from_image = pipeline == "CogVideoXImageToVideoPipeline"
    transformer = parts.seeded(
        diffusers.CogVideoXTransformer3DModel,
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=8 if from_image else 4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=32,
        num_layers=2,
        sample_width=2,
        sample_height=2,
        sample_frames=9,
        max_text_seq_length=16,
        use_rotary_positional_embeddings=True,
        use_learned_positional_embeddings=from_image,
    )
    vae = parts.seeded(
        diffusers.AutoencoderKLCogVideoX,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    )
    return getattr(diffusers, pipeline)(
        tokenizer=parts.t5_tokenizer(),
        text_encoder=parts.t5_encoder(),
        vae=vae,
        transformer=transformer,
        scheduler=scheduler(
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            snr_shift_scale=1.0,
            timestep_spacing="trailing",
            clip_sample=False,
            **_BETAS,
        ),
    )


def _mochi() -> Any:
    transformer = parts.seeded(
        diffusers.MochiTransformer3DModel,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        text_embed_dim=32,
        time_embed_dim=4,
        max_sequence_length=16,
    )
    # Made with torch.full(0.0) upstream, which leaves no rotary positions; values make the order of tokens matter.
    parts.spread(transformer.pos_frequencies.data, 0.0, 1.0)
    vae = parts.seeded(
        diffusers.AutoencoderKLMochi,
        encoder_block_out_channels=(32,) * 4,
        decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1,) * 5,
    )
    return diffusers.MochiPipeline(
        scheduler=parts.flow_match(invert_sigmas=True),
        vae=vae,
        text_encoder=parts.t5_encoder(),
        tokenizer=parts.t5_tokenizer(),
        transformer=transformer,
    )


def _svd() -> Any:
    unet = parts.seeded(
        diffusers.UNetSpatioTemporalConditionModel,
        block_out_channels=(32, 64),
        sample_size=32,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        layers_per_block=1,
        cross_attention_dim=32,
        num_attention_heads=8,
        projection_class_embeddings_input_dim=96,
        addition_time_embed_dim=32,
    )
    vae = parts.seeded(
        diffusers.AutoencoderKLTemporalDecoder,
        block_out_channels=[32, 64],
        down_block_types=["DownEncoderBlock2D"] * 2,
        latent_channels=4,
    )
    return diffusers.StableVideoDiffusionPipeline(
        vae=vae,
        image_encoder=parts.clip_vision(32, 32, 224, 32, 4),
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            sigma_max=700.0,
            sigma_min=0.002,
            steps_offset=1,
            timestep_spacing="leading",
            timestep_type="continuous",
            use_karras_sigmas=True,
            **_BETAS,
        ),
        feature_extractor=parts.clip_images(224),
    )


def _animatediff(scheduler: Any) -> Any:
    unet = parts.seeded(
        diffusers.UNet2DConditionModel,
        block_out_channels=(8, 8),
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=8,
        norm_num_groups=2,
    )
    vae = parts.seeded(
        diffusers.AutoencoderKL,
        block_out_channels=(8, 8),
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        norm_num_groups=2,
    )
    adapter = parts.seeded(
        diffusers.MotionAdapter,
        block_out_channels=(8, 8),
        motion_layers_per_block=1,
        motion_norm_num_groups=2,
        motion_num_attention_heads=4,
    )
    return diffusers.AnimateDiffPipeline(
        vae=vae,
        text_encoder=parts.clip_text(5),
        tokenizer=parts.clip_tokenizer(),
        unet=unet,
        motion_adapter=adapter,
        scheduler=scheduler,
    )


def _ddim() -> Any:
    how = {"clip_sample": False, "timestep_spacing": "linspace", "steps_offset": 1}
    return diffusers.DDIMScheduler(beta_schedule="linear", **how, **_BETAS)


def _dpm(**config: Any) -> Any:
    return diffusers.DPMSolverMultistepScheduler(beta_schedule="linear", **config, **_BETAS)


def _euler_ancestral() -> Any:
    return diffusers.EulerAncestralDiscreteScheduler(beta_schedule="linear", **_BETAS)


def _words(guidance: float, frames: int) -> dict[str, Any]:
    size = {"height": 16, "width": 16, "num_frames": frames}
    return {"prompt": PROMPT, "negative_prompt": "", "guidance_scale": guidance, **size}


def _cog_call(**more: Any) -> dict[str, Any]:
    return {**_words(6.0, 9), "max_sequence_length": 16, **more}


def _svd_call() -> dict[str, Any]:
    guidance = {"min_guidance_scale": 1.0, "max_guidance_scale": 2.5}
    return {"image": parts.picture(), "num_frames": 4, "height": 32, "width": 32, **guidance}


def _animated(make: Any) -> Tiny:
    return Tiny(
        pipeline="AnimateDiffPipeline",
        make=lambda: _animatediff(make()),
        call=lambda: _words(7.5, 4),
        family="animatediff",
        frames=4,
        width=16,
        height=16,
        causal=True,
    )


_COG: dict[str, Any] = {"family": "cogvideox", "layout": "bfchw", "width": 16, "height": 16}
_COG_I2V = "CogVideoXImageToVideoPipeline"
FAMILIES: dict[str, Tiny] = {
    "cogvideox-t2v-ddim": Tiny(
        pipeline="CogVideoXPipeline",
        make=lambda: _cogvideox("CogVideoXPipeline", diffusers.CogVideoXDDIMScheduler),
        call=_cog_call,
        **_COG,
    ),
    "cogvideox-t2v-dpm": Tiny(
        pipeline="CogVideoXPipeline",
        make=lambda: _cogvideox("CogVideoXPipeline", diffusers.CogVideoXDPMScheduler),
        call=lambda: _cog_call(use_dynamic_cfg=True),
        **_COG,
    ),
    "cogvideox-i2v": Tiny(
        pipeline=_COG_I2V,
        make=lambda: _cogvideox(_COG_I2V, diffusers.CogVideoXDPMScheduler),
        call=lambda: _cog_call(use_dynamic_cfg=True, image=parts.picture(16, 16)),
        **_COG,
    ),
    "mochi": Tiny(
        pipeline="MochiPipeline",
        make=_mochi,
        call=lambda: {**_words(4.5, 7), "max_sequence_length": 16},
        family="mochi",
        frames=7,
        width=16,
        height=16,
        causal=True,
    ),
    "svd": Tiny(
        pipeline="StableVideoDiffusionPipeline", make=_svd, call=_svd_call, family="svd", layout="bfchw", frames=4
    ),
    "animatediff-ddim": _animated(_ddim),
    "animatediff-dpm": _animated(_dpm),
    "animatediff-sde": _animated(lambda: _dpm(algorithm_type="sde-dpmsolver++")),
    "animatediff-euler-a": _animated(_euler_ancestral),
}
