"""What a row says of its denoiser is what diffusers computes with the published configuration, counted without weights.

Networks of full size are built where tensors have a shape and no memory. A transformer's formula is held to the counted
operations in both of its terms; the two that look into their masks are held to the weights that a token passes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import diffusers
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from framewright import catalogue
from framewright.catalogue.computing import Grid, Transformer, UNet
from framewright.catalogue.diffusion import Diffusion
from workers.diffusion.calling import Keyframe, _conditions

TOLERANCE: Final = 0.15
WAN_SMALL: Final = {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}
WAN_5B: Final = {"num_attention_heads": 24, "num_layers": 30, "ffn_dim": 14336, "in_channels": 48, "out_channels": 48}
COG_LARGE: Final = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}
COG_1_5: Final = {"patch_size_t": 2, "patch_bias": False, "sample_width": 170, "sample_height": 96, "sample_frames": 81}
Inputs = Callable[[Diffusion, Any, Grid], dict[str, Any]]


def _wan(_facts: Diffusion, net: Any, grid: Grid) -> dict[str, Any]:
    given = {"hidden_states": _some(1, net.config.in_channels, *grid), "timestep": _numbers(1)}
    given["encoder_hidden_states"] = _some(1, 512, 4096)
    return given | ({"encoder_hidden_states_image": _some(1, 257, 1280)} if net.config.image_dim else {})


def _vace(facts: Diffusion, net: Any, grid: Grid) -> dict[str, Any]:
    scales = torch.ones(len(net.config.vace_layers))
    return _wan(facts, net, grid) | {
        "control_hidden_states": _some(1, net.config.vace_in_channels, *grid),
        "control_hidden_states_scale": scales,
    }


def _animate(facts: Diffusion, net: Any, grid: Grid) -> dict[str, Any]:
    # The picture of the character stands before the clip.
    frames, rows, columns = grid
    pose, face = _some(1, 16, *grid), _some(1, 3, facts.call["segment_frame_length"], 512, 512)
    here = _wan(facts, net, (frames + 1, rows, columns))
    return here | {"pose_hidden_states": pose, "face_pixel_values": face}


def _ltx(_facts: Diffusion, net: Any, grid: Grid) -> dict[str, Any]:
    tokens = grid[0] * grid[1] * grid[2]
    return {
        "hidden_states": _some(1, tokens, net.config.in_channels),
        "encoder_hidden_states": _some(1, 256, net.config.caption_channels),
        "timestep": _some(1, 1),
        "encoder_attention_mask": _some(1, 256),
        "video_coords": _some(1, 3, tokens),
    }


def _ltx2(_facts: Diffusion, net: Any, grid: Grid) -> dict[str, Any]:
    frames, rows, columns = grid
    tokens, words, sound = frames * rows * columns, net.config.caption_channels, 8 * frames
    return {
        "hidden_states": _some(1, tokens, 128),
        "audio_hidden_states": _some(1, sound, 128),
        "encoder_hidden_states": _some(1, 1024, words),
        "audio_encoder_hidden_states": _some(1, 1024, words),
        "timestep": _some(1, 1),
        "audio_timestep": _some(1, 1),
        "num_frames": frames,
        "height": rows,
        "width": columns,
        "audio_num_frames": sound,
        "video_coords": _some(1, 3, tokens, 2),
        "audio_coords": _some(1, 1, sound, 2),
    }


def _hunyuan(_facts: Diffusion, _net: Any, grid: Grid) -> dict[str, Any]:
    return {
        "hidden_states": _some(1, 16, *grid),
        "timestep": _some(1),
        "encoder_hidden_states": _some(1, 256, 4096),
        "encoder_attention_mask": torch.ones(1, 256),
        "pooled_projections": _some(1, 768),
        "guidance": _some(1),
    }


def _cogvideox(facts: Diffusion, net: Any, grid: Grid) -> dict[str, Any]:
    frames, rows, columns = grid
    depth = net.config.patch_size_t or 1
    frames = -(-frames // depth) * depth
    tokens = frames // depth * (rows // 2) * (columns // 2)
    given = {
        "hidden_states": _some(1, frames, 16, rows, columns),
        "encoder_hidden_states": _some(1, facts.max_tokens or 0, 4096),
        "timestep": _numbers(1),
    }
    turned = net.config.use_rotary_positional_embeddings
    return given | ({"image_rotary_emb": (_some(tokens, 64), _some(tokens, 64))} if turned else {})


def _svd(_facts: Diffusion, _net: Any, grid: Grid) -> dict[str, Any]:
    frames, rows, columns = grid
    return {
        "sample": _some(1, frames, 8, rows, columns),
        "timestep": _some(1),
        "encoder_hidden_states": _some(1, 1, 1024),
        "added_time_ids": _some(1, 3),
    }


def _animatediff(_facts: Diffusion, _net: Any, grid: Grid) -> dict[str, Any]:
    return {"sample": _some(1, 4, *grid), "timestep": _some(1), "encoder_hidden_states": _some(grid[0], 77, 768)}


@dataclass(frozen=True)
class Network:
    """The published configuration of a row's denoiser, where it is not the default of its class."""

    kind: str
    inputs: Inputs | None
    config: Mapping[str, Any]


def _net(kind: str, inputs: Inputs | None, **config: Any) -> Network:
    return Network(kind, inputs, config)


NETWORKS: Final = {
    "wan-2.1-t2v-1.3b": _net("WanTransformer3DModel", _wan, **WAN_SMALL),
    "wan-2.1-t2v-14b": _net("WanTransformer3DModel", _wan),
    "wan-2.1-vace-1.3b": _net("WanVACETransformer3DModel", _vace, vace_layers=list(range(0, 30, 2)), **WAN_SMALL),
    "wan-2.1-vace-14b": _net("WanVACETransformer3DModel", _vace),
    "wan-2.2-ti2v-5b": _net("WanTransformer3DModel", _wan, **WAN_5B),
    "wan-2.2-animate-14b": _net("WanAnimateTransformer3DModel", _animate),
    "ltx-video-0.9.5-2b": _net("LTXVideoTransformer3DModel", _ltx),
    "ltx-video-0.9.8-13b": _net(
        "LTXVideoTransformer3DModel", _ltx, num_layers=48, attention_head_dim=128, cross_attention_dim=4096
    ),
    "ltx-2-19b": _net("LTX2VideoTransformer3DModel", _ltx2),
    "hunyuan-video": _net("HunyuanVideoTransformer3DModel", _hunyuan),
    "hunyuan-video-1.5-480p-t2v": _net("HunyuanVideo15Transformer3DModel", None),
    "cogvideox-2b": _net("CogVideoXTransformer3DModel", _cogvideox),
    "cogvideox-5b": _net("CogVideoXTransformer3DModel", _cogvideox, **COG_LARGE),
    "cogvideox-1.5-5b": _net("CogVideoXTransformer3DModel", _cogvideox, **COG_LARGE, **COG_1_5),
    "mochi-1": _net("MochiTransformer3DModel", None),
    "svd-xt": _net("UNetSpatioTemporalConditionModel", _svd),
    "animatediff-sd-1.5": _net(
        "UNetMotionModel", _animatediff, cross_attention_dim=768, num_attention_heads=8, use_motion_mid_block=False
    ),
}
COUNTED: Final = [name for name, network in NETWORKS.items() if network.inputs]
WEIGHED: Final = [name for name, network in NETWORKS.items() if not network.inputs]


def facts_of(name: str) -> Diffusion:
    facts = catalogue.named(name).diffusion
    assert facts is not None
    return facts


def _some(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape)


def _numbers(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, dtype=torch.long)


@contextmanager
def _weightless(kind: str) -> Iterator[None]:
    """Tensors that are no more than shapes, attention as plain products. A UNet mixes in numbers of the CPU's."""
    here = FakeTensorMode() if kind.startswith("UNet") else torch.device("meta")
    with warnings.catch_warnings(), here, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        warnings.simplefilter("ignore")
        yield


def _counted(name: str) -> tuple[Grid, float, float]:
    """Latents of the usual clip, and operations of one forward: in attention, and in all else."""
    row, facts, network = catalogue.named(name), facts_of(name), NETWORKS[name]
    size, frames = row.size.default or row.size.shaped(16, 9), row.frames.default or row.frames.most
    grid = facts.latents.grid(size, frames)
    assert network.inputs is not None
    with _weightless(network.kind):
        net = getattr(diffusers, network.kind)(**network.config).eval()
        given = network.inputs(facts, net, grid)
        with FlopCounterMode(display=False) as counter:
            net(**given)
    by = {str(kind): flops for kind, flops in counter.get_flop_counts()["Global"].items()}
    pairs = sum(flops for kind, flops in by.items() if kind in {"aten.bmm", "aten.baddbmm"})
    return grid, pairs, sum(by.values()) - pairs


def test_every_denoiser_is_one_of_those_that_are_counted_here() -> None:
    rows = [row.diffusion for row in catalogue.rows() if row.diffusion is not None]
    assert {facts.denoiser for facts in rows} == {facts_of(name).denoiser for name in NETWORKS}


@pytest.mark.parametrize("name", COUNTED)
def test_what_a_row_says_of_its_denoiser_is_what_diffusers_computes(name: str) -> None:
    denoiser = facts_of(name).denoiser
    grid, pairs, rest = _counted(name)
    if isinstance(denoiser, UNet):
        attention, linear = replace(denoiser, per_pixel=0).flops(grid), replace(denoiser, per_pair=0).flops(grid)
    else:
        attention, linear = replace(denoiser, parameters=0).flops(grid), replace(denoiser, layers=0).flops(grid)
    assert linear == pytest.approx(rest, rel=TOLERANCE)
    # Attention to words that stand aside is left out, which shows in the smallest clips.
    assert attention == pytest.approx(pairs, rel=TOLERANCE + 0.05)
    assert denoiser.flops(grid) == pytest.approx(pairs + rest, rel=TOLERANCE)


@pytest.mark.parametrize("name", WEIGHED)
def test_a_token_passes_the_weights_that_the_row_says(name: str) -> None:
    denoiser = facts_of(name).denoiser
    assert isinstance(denoiser, Transformer)
    with _weightless(NETWORKS[name].kind):
        net = getattr(diffusers, NETWORKS[name].kind)(**NETWORKS[name].config)
    passed = sum(
        weight.numel()
        for path, weight in net.transformer_blocks.named_parameters()
        if weight.ndim > 1 and not any(aside in path for aside in ("add_", "_add", "context", "norm"))
    )
    assert denoiser.parameters == pytest.approx(passed, rel=TOLERANCE)
    assert denoiser.layers == len(net.transformer_blocks)
    assert denoiser.width == net.config.num_attention_heads * net.config.attention_head_dim
    spatial = net.config.patch_size
    assert denoiser.patch[1:] == (spatial, spatial)


@pytest.mark.parametrize("frame", range(41))
def test_a_keyframe_that_moved_stands_where_the_pipeline_puts_it(frame: int) -> None:
    facts = facts_of("ltx-2-19b")
    still = Image.new("RGB", (32, 32))
    (asked,) = _conditions(facts, [Keyframe(still, frame)], 41)
    (moved,) = _conditions(facts, [Keyframe(still, facts.keyframe(frame))], 41)
    # As `LTX2ConditionPipeline` counts: the first latent is one frame, each further one `temporal`.
    stride = facts.latents.temporal
    assert facts.keyframe(frame) == max(0, (asked.index - 1) * stride + 1)
    assert moved.index == asked.index
