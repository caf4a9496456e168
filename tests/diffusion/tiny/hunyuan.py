"""Tiny HunyuanVideo (T2V and both I2V checkpoints) and HunyuanVideo 1.5."""

from __future__ import annotations

from typing import Any

import diffusers
import transformers
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig

from . import parts
from .facts import PROMPT, Tiny

# The published template is of hundreds of tokens; this one has a place for the image, and the prompt after it.
LLAVA_TEMPLATE = {
    "template": (
        "<|start_header_id|>system<|end_header_id|><image>d<|eot_id|><|start_header_id|>user<|end_header_id|>{}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>"
    ),
    "crop_start": 18,
    "image_emb_len": 49,
    "image_emb_start": 9,
    "image_emb_end": 58,
}


def _vae() -> Any:
    return parts.seeded(
        diffusers.AutoencoderKLHunyuanVideo,
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        layers_per_block=1,
        norm_num_groups=4,
    )


def _transformer(channels: int = 4, **more: Any) -> Any:
    return parts.seeded(
        diffusers.HunyuanVideoTransformer3DModel,
        in_channels=channels,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=1,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
        **more,
    )


def _llama(tokenizer: Any) -> Any:
    return transformers.LlamaConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        hidden_size=16,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=4,
        vocab_size=300,
    )


def _pipe(pipeline: str, transformer: Any, encoder: Any, tokenizer: Any, **more: Any) -> Any:
    return getattr(diffusers, pipeline)(
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=transformer,
        vae=_vae(),
        scheduler=parts.flow_match(shift=7.0),
        text_encoder_2=parts.clip_text(),
        tokenizer_2=parts.clip_tokenizer(),
        **more,
    )


def _llama_tokenizer() -> Any:
    extra = ("<image>", "<|start_header_id|>", "<|end_header_id|>")
    return parts.byte_tokenizer("LlamaTokenizerFast", "<|begin_of_text|>", "<|eot_id|>", "<pad>", extra)


def _t2v() -> Any:
    tokenizer = _llama_tokenizer()
    encoder = parts.seeded(transformers.LlamaModel, _llama(tokenizer))
    return _pipe("HunyuanVideoPipeline", _transformer(guidance_embeds=True), encoder, tokenizer)


def _i2v(kind: str) -> Any:
    tokenizer = _llama_tokenizer()
    vision = transformers.CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=37,
        projection_dim=32,
        num_attention_heads=4,
        num_hidden_layers=2,
        image_size=224,
        patch_size=32,
    )
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=_llama(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    encoder = parts.seeded(transformers.LlavaForConditionalGeneration, config)
    channels = 2 * 4 + 1 if kind == "latent_concat" else 4
    transformer = _transformer(channels, guidance_embeds=kind == "token_replace", image_condition_type=kind)
    images = {"image_processor": parts.clip_images(224)}
    return _pipe("HunyuanVideoImageToVideoPipeline", transformer, encoder, tokenizer, **images)


def _hunyuan15(task: str, **more: Any) -> Any:
    tokenizer = parts.byte_tokenizer(
        "Qwen2Tokenizer", "<|endoftext|>", "<|im_end|>", "<|endoftext|>", ("<|im_start|>",)
    )
    tokenizer.chat_template = parts.CHATML
    text = Qwen2_5_VLTextConfig(
        vocab_size=512,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        rope_parameters={"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1e6},
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=0,
        eos_token_id=1,
    )
    transformer = parts.seeded(
        diffusers.HunyuanVideo15Transformer3DModel,
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        patch_size=1,
        text_embed_dim=16,
        text_embed_2_dim=32,
        image_embed_dim=12,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type=task,
    )
    vae = parts.seeded(
        diffusers.AutoencoderKLHunyuanVideo15,
        latent_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=2,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    pipeline = diffusers.HunyuanVideo15Pipeline if task == "t2v" else diffusers.HunyuanVideo15ImageToVideoPipeline
    return pipeline(
        text_encoder=parts.seeded(transformers.Qwen2_5_VLTextModel, text),
        tokenizer=tokenizer,
        transformer=transformer,
        vae=vae,
        scheduler=parts.flow_match(shift=7.0),
        text_encoder_2=parts.t5_encoder(vocabulary=400),
        tokenizer_2=transformers.ByT5Tokenizer(),
        guider=diffusers.ClassifierFreeGuidance(guidance_scale=6.0),
        **more,
    )


def _hunyuan15_i2v() -> Any:
    config = transformers.SiglipVisionConfig(
        hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    images = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    encoder = parts.seeded(transformers.SiglipVisionModel, config)
    return _hunyuan15("i2v", image_encoder=encoder, feature_extractor=images)


def _call() -> dict[str, Any]:
    template = {"template": "{}", "crop_start": 0}
    size = {"height": 16, "width": 16, "num_frames": 9}
    return {"prompt": PROMPT, "guidance_scale": 4.5, "max_sequence_length": 32, "prompt_template": template, **size}


def _from_picture() -> dict[str, Any]:
    image = {"image": parts.picture(16, 16), "prompt_template": LLAVA_TEMPLATE, "max_sequence_length": 64}
    return {**_call(), **image}


_HUNYUAN: dict[str, Any] = {"family": "hunyuan", "width": 16, "height": 16}
_I2V = "HunyuanVideoImageToVideoPipeline"
_I2V_15 = "HunyuanVideo15ImageToVideoPipeline"
FAMILIES: dict[str, Tiny] = {
    "hunyuan-t2v": Tiny(pipeline="HunyuanVideoPipeline", make=_t2v, call=_call, **_HUNYUAN),
    "hunyuan-i2v-concat": Tiny(pipeline=_I2V, make=lambda: _i2v("latent_concat"), call=_from_picture, **_HUNYUAN),
    "hunyuan-i2v-replace": Tiny(pipeline=_I2V, make=lambda: _i2v("token_replace"), call=_from_picture, **_HUNYUAN),
    "hunyuan15-t2v": Tiny(
        pipeline="HunyuanVideo15Pipeline",
        make=lambda: _hunyuan15("t2v"),
        call=lambda: {"prompt": PROMPT, "negative_prompt": "", "height": 16, "width": 16, "num_frames": 9},
        family="hunyuan15",
        width=16,
        height=16,
        causal=True,
    ),
    "hunyuan15-i2v": Tiny(
        pipeline=_I2V_15,
        make=_hunyuan15_i2v,
        call=lambda: {"image": parts.picture(), "prompt": PROMPT, "negative_prompt": "", "num_frames": 9},
        family="hunyuan15",
        width=16,
        height=16,
        causal=True,
    ),
}
