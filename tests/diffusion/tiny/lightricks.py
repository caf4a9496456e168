"""Tiny LTX-Video and LTX-2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
import transformers
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder

from . import parts
from .facts import PROMPT, Tiny


def _ltx_vae(timestep_conditioning: bool) -> Any:
    vae = parts.seeded(
        diffusers.AutoencoderKLLTXVideo,
        latent_channels=8,
        block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(timestep_conditioning,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        timestep_conditioning=timestep_conditioning,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    parts.spread(vae.latents_mean, -0.4, 0.4)
    parts.spread(vae.latents_std, 0.6, 1.4)
    return vae


def _ltx(pipeline: str, *, timestep_conditioning: bool = False) -> Any:
    transformer = parts.seeded(
        diffusers.LTXVideoTransformer3DModel,
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=32,
    )
    # LTXConditionPipeline cannot work with a scheduler that shifts by the length of the sequence.
    shifting = {} if pipeline == "LTXConditionPipeline" else {"use_dynamic_shifting": True, "shift_terminal": 0.1}
    shifts = {"base_shift": 0.95, "max_shift": 2.05, "base_image_seq_len": 1024, "max_image_seq_len": 4096}
    return getattr(diffusers, pipeline)(
        scheduler=parts.flow_match(**shifting, **shifts),
        vae=_ltx_vae(timestep_conditioning),
        text_encoder=parts.t5_encoder(),
        tokenizer=parts.t5_tokenizer(),
        transformer=transformer,
    )


def _ltx2_text() -> tuple[Any, Any]:
    """Gemma 3 and its tokenizer."""
    images = ("<start_of_image>", "<image_soft_token>", "<end_of_image>")
    tokenizer = parts.byte_tokenizer("GemmaTokenizer", "<bos>", "<eos>", "<pad>", images)
    text = transformers.Gemma3TextConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        sliding_window=64,
    )
    vision = transformers.SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    start, soft, end = (tokenizer.convert_tokens_to_ids(name) for name in images)
    config = transformers.Gemma3Config(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        mm_tokens_per_image=4,
        image_token_index=soft,
        boi_token_index=start,
        eoi_token_index=end,
    )
    return parts.seeded(transformers.Gemma3ForConditionalGeneration, config), tokenizer


def _ltx2_video_vae() -> Any:
    vae = parts.seeded(
        diffusers.AutoencoderKLLTX2Video,
        latent_channels=4,
        block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, True),
        decoder_spatio_temporal_scaling=(True, True),
        decoder_inject_noise=(False,) * 3,
        downsample_type=("spatiotemporal",) * 2,
        upsample_residual=(False,) * 2,
        upsample_factor=(1,) * 2,
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    parts.spread(vae.latents_mean, -0.4, 0.4)
    parts.spread(vae.latents_std, 0.6, 1.4)
    return vae


def _ltx2(pipeline: str) -> Any:
    encoder, tokenizer = _ltx2_text()
    transformer = parts.seeded(
        diffusers.LTX2VideoTransformer3DModel,
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=2,
        caption_channels=32,
        rope_double_precision=False,
        rope_type="split",
    )
    connector = {"connector_num_attention_heads": 4, "connector_attention_head_dim": 8, "connector_num_layers": 1}
    connector["connector_num_learnable_registers"] = None
    connectors = parts.seeded(
        LTX2TextConnectors,
        caption_channels=32,
        text_proj_in_factor=3,
        connector_rope_base_seq_len=32,
        rope_double_precision=False,
        causal_temporal_positioning=False,
        rope_type="split",
        **{f"{kind}_{name}": value for kind in ("video", "audio") for name, value in connector.items()},
    )
    audio_vae = parts.seeded(
        diffusers.AutoencoderKLLTX2Audio,
        base_channels=4,
        ch_mult=(1, 1, 1),
        num_res_blocks=1,
        resolution=32,
        latent_channels=2,
        mel_bins=8,
    )
    parts.spread(audio_vae.latents_mean, -0.4, 0.4)
    parts.spread(audio_vae.latents_std, 0.6, 1.4)
    vocoder = parts.seeded(
        LTX2Vocoder,
        in_channels=16,
        hidden_channels=32,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3, 5]],
        output_sampling_rate=16000,
    )
    return getattr(diffusers, pipeline)(
        scheduler=parts.flow_match(),
        vae=_ltx2_video_vae(),
        audio_vae=audio_vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        connectors=connectors,
        transformer=transformer,
        vocoder=vocoder,
    )


def _ltx_call() -> dict[str, Any]:
    words = {"prompt": PROMPT, "negative_prompt": "", "max_sequence_length": 16}
    return {"height": 32, "width": 32, "num_frames": 9, "guidance_scale": 3.0, **words}


def _ltx2_call() -> dict[str, Any]:
    return {**_ltx_call(), "frame_rate": 25.0, "spatio_temporal_guidance_blocks": [0], "stg_scale": 1.0}


def _keyframes() -> dict[str, Any]:
    condition = diffusers.pipelines.ltx.pipeline_ltx_condition.LTXVideoCondition
    first, last = condition(parts.picture(seed=1)), condition(parts.picture(seed=2), frame_index=8, strength=0.6)
    return {**_ltx_call(), "conditions": [first, last], "image_cond_noise_scale": 0.15}


def _with_picture(call: Mapping[str, Any]) -> dict[str, Any]:
    return {**call, "image": parts.picture()}


_LTX: dict[str, Any] = {"family": "ltx", "layout": "packed"}
_LTX2: dict[str, Any] = {"family": "ltx2", "layout": "packed", "schedulers": 2, "audio": True}
FAMILIES: dict[str, Tiny] = {
    "ltx-t2v": Tiny(pipeline="LTXPipeline", make=lambda: _ltx("LTXPipeline"), call=_ltx_call, **_LTX),
    "ltx-t2v-decode-timestep": Tiny(
        pipeline="LTXPipeline",
        make=lambda: _ltx("LTXPipeline", timestep_conditioning=True),
        call=lambda: {**_ltx_call(), "decode_timestep": 0.05, "decode_noise_scale": 0.025},
        **_LTX,
    ),
    "ltx-i2v": Tiny(
        pipeline="LTXImageToVideoPipeline",
        make=lambda: _ltx("LTXImageToVideoPipeline"),
        call=lambda: _with_picture(_ltx_call()),
        **_LTX,
    ),
    "ltx-condition": Tiny(
        pipeline="LTXConditionPipeline",
        make=lambda: _ltx("LTXConditionPipeline"),
        call=lambda: _with_picture(_ltx_call()),
        **_LTX,
    ),
    "ltx-keyframes": Tiny(
        pipeline="LTXConditionPipeline", make=lambda: _ltx("LTXConditionPipeline"), call=_keyframes, **_LTX
    ),
    "ltx2-t2v": Tiny(pipeline="LTX2Pipeline", make=lambda: _ltx2("LTX2Pipeline"), call=_ltx2_call, **_LTX2),
    "ltx2-i2v": Tiny(
        pipeline="LTX2ImageToVideoPipeline",
        make=lambda: _ltx2("LTX2ImageToVideoPipeline"),
        call=lambda: _with_picture(_ltx2_call()),
        **_LTX2,
    ),
}
