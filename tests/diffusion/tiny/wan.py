"""Tiny Wan 2.1 and 2.2."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np

from . import parts
from .facts import PROMPT, Tiny

_SHAPE = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": 32,
    "freq_dim": 32,
    "ffn_dim": 32,
    "num_layers": 2,
    "cross_attn_norm": True,
    "rope_max_seq_len": 32,
}
_CLIP_TOKENS = 5
# The attention of Wan takes all but the last 512 tokens for those of the image: a shorter text would be cut up.
_WITH_CLIP = {"max_sequence_length": 512}


def _transformer(channels: int = 16, out: int = 16, **more: Any) -> Any:
    return parts.seeded(diffusers.WanTransformer3DModel, in_channels=channels, out_channels=out, **_SHAPE, **more)


def _vae() -> Any:
    return parts.seeded(
        diffusers.AutoencoderKLWan,
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )


def _vae_22() -> Any:
    """The 48-channel VAE of the 5B model, which makes 16x16 pixels of a latent."""
    return parts.seeded(
        diffusers.AutoencoderKLWan,
        base_dim=3,
        z_dim=48,
        in_channels=12,
        out_channels=12,
        is_residual=True,
        patch_size=2,
        latents_mean=np.linspace(-0.4, 0.4, 48).tolist(),
        latents_std=np.linspace(0.6, 1.4, 48).tolist(),
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        scale_factor_spatial=16,
        scale_factor_temporal=4,
        temperal_downsample=[False, True, True],
    )


def _pipe(pipeline: str, transformer: Any, **more: Any) -> Any:
    given = {"vae": _vae(), "text_encoder": parts.t5_encoder("UMT5"), "tokenizer": parts.t5_tokenizer(), **more}
    return getattr(diffusers, pipeline)(scheduler=parts.unipc(), transformer=transformer, **given)


def _clip() -> dict[str, Any]:
    return {"image_processor": parts.clip_images(32), "image_encoder": parts.clip_vision(4, 4, 32, 16, 2)}


def _i2v_21(**more: Any) -> Any:
    return _pipe("WanImageToVideoPipeline", _transformer(36, 16, image_dim=4, added_kv_proj_dim=24, **more), **_clip())


def _t2v_a14b() -> Any:
    second = parts.seeded(diffusers.WanTransformer3DModel, in_channels=16, out_channels=16, **{**_SHAPE, "ffn_dim": 40})
    return _pipe("WanPipeline", _transformer(), transformer_2=second, boundary_ratio=0.875)


def _i2v_a14b() -> Any:
    second = parts.seeded(diffusers.WanTransformer3DModel, in_channels=36, out_channels=16, **{**_SHAPE, "ffn_dim": 40})
    nobody = {"image_processor": None, "image_encoder": None}
    return _pipe("WanImageToVideoPipeline", _transformer(36), transformer_2=second, boundary_ratio=0.9, **nobody)


def _ti2v_5b(pipeline: str) -> Any:
    nobody = {"image_processor": None, "image_encoder": None} if pipeline == "WanImageToVideoPipeline" else {}
    return _pipe(pipeline, _transformer(48, 48), vae=_vae_22(), expand_timesteps=True, **nobody)


def _vace() -> Any:
    transformer = parts.seeded(
        diffusers.WanVACETransformer3DModel,
        in_channels=16,
        out_channels=16,
        vace_layers=[0],
        vace_in_channels=96,
        **_SHAPE,
    )
    return _pipe("WanVACEPipeline", transformer)


def _animate() -> Any:
    transformer = parts.seeded(
        diffusers.WanAnimateTransformer3DModel,
        in_channels=36,
        latent_channels=16,
        out_channels=16,
        image_dim=4,
        added_kv_proj_dim=24,
        motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8},
        motion_encoder_size=16,
        motion_style_dim=8,
        motion_dim=4,
        motion_encoder_dim=16,
        face_encoder_hidden_dim=16,
        face_encoder_num_heads=2,
        inject_face_latents_blocks=2,
        **_SHAPE,
    )
    return _pipe("WanAnimatePipeline", transformer, **_clip())


def _call(side: int = 16) -> dict[str, Any]:
    words = {"prompt": PROMPT, "negative_prompt": "blue", "max_sequence_length": 16}
    return {"height": side, "width": side, "num_frames": 9, "guidance_scale": 6.0, **words}


def _from_picture(side: int = 16) -> dict[str, Any]:
    return {**_call(side), "image": parts.picture(side, side)}


def _first_last() -> dict[str, Any]:
    return {**_from_picture(), "last_image": parts.picture(16, 16, seed=1)}


def _control() -> dict[str, Any]:
    masks = [parts.picture(16, 16, seed=90 + frame).convert("L") for frame in range(9)]
    return {**_call(), "video": parts.film(9, 16, 16), "mask": masks, "reference_images": [parts.picture(16, 16, 7)]}


def _character() -> dict[str, Any]:
    """Nine frames of a pose in segments of five that share one: two segments."""
    moving = {"pose_video": parts.film(9, 16, 16), "face_video": parts.film(9, 16, 16)}
    words = {"prompt": PROMPT, "negative_prompt": "blue", **_WITH_CLIP}
    segments = {"segment_frame_length": 5, "prev_segment_conditioning_frames": 1}
    return {
        "image": parts.picture(16, 16),
        "height": 16,
        "width": 16,
        "guidance_scale": 2.0,
        **moving,
        **words,
        **segments,
    }


_WAN: dict[str, Any] = {"family": "wan", "width": 16, "height": 16, "causal": True}
_WAN_5B: dict[str, Any] = {"family": "wan", "causal": True}
_I2V = "WanImageToVideoPipeline"
FAMILIES: dict[str, Tiny] = {
    "wan21-t2v": Tiny(pipeline="WanPipeline", make=lambda: _pipe("WanPipeline", _transformer()), call=_call, **_WAN),
    "wan21-i2v": Tiny(pipeline=_I2V, make=_i2v_21, call=lambda: {**_from_picture(), **_WITH_CLIP}, **_WAN),
    "wan21-flf2v": Tiny(
        pipeline=_I2V,
        make=lambda: _i2v_21(pos_embed_seq_len=2 * _CLIP_TOKENS),
        call=lambda: {**_first_last(), **_WITH_CLIP},
        **_WAN,
    ),
    "wan21-vace": Tiny(pipeline="WanVACEPipeline", make=_vace, call=_control, **_WAN),
    "wan22-t2v-a14b": Tiny(
        pipeline="WanPipeline", make=_t2v_a14b, call=lambda: {**_call(), "guidance_scale_2": 3.0}, **_WAN
    ),
    "wan22-i2v-a14b": Tiny(pipeline=_I2V, make=_i2v_a14b, call=_from_picture, **_WAN),
    "wan22-first-last-a14b": Tiny(pipeline=_I2V, make=_i2v_a14b, call=_first_last, **_WAN),
    "wan22-t2v-5b": Tiny(
        pipeline="WanPipeline", make=lambda: _ti2v_5b("WanPipeline"), call=lambda: _call(32), **_WAN_5B
    ),
    "wan22-i2v-5b": Tiny(pipeline=_I2V, make=lambda: _ti2v_5b(_I2V), call=lambda: _from_picture(32), **_WAN_5B),
    "wan22-animate": Tiny(pipeline="WanAnimatePipeline", make=_animate, call=_character, segments=2, **_WAN),
}
