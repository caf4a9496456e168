"""The families of the catalogue as cases: which tiny model stands for which row, and the stock call of its clip."""

from __future__ import annotations

from typing import Any

from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from tiny import picture
from tiny.hunyuan import LLAVA_TEMPLATE
from workshop import Case

from framewright import catalogue

LLAVA = {"prompt_template": LLAVA_TEMPLATE}
LTX_NO = "worst quality, inconsistent motion, blurry, jittery, distorted"
WAN_NO = catalogue.named("wan-2.1-t2v-1.3b").diffusion.negative  # type: ignore[union-attr]
UNIPC = "UniPCMultistepScheduler"
FLOW = "FlowMatchEulerDiscreteScheduler"
_LTX: dict[str, Any] = {"size": (32, 32), "fps": "25", "max_tokens": 16, "forwards": 1}
_LTX_CALL: dict[str, Any] = {"guidance_scale": 3.0, "negative_prompt": LTX_NO, "frame_rate": 25.0}
_COND: dict[str, Any] = {**_LTX, "tiny": "ltx-condition", "like": "ltx-video-0.9.5-2b"}
_COND_CALL: dict[str, Any] = {**_LTX_CALL, "decode_timestep": 0.05, "decode_noise_scale": 0.025}
_LTX2: dict[str, Any] = {"like": "ltx-2-19b", "size": (32, 32), "fps": "25", "max_tokens": 16}
_LTX2_CALL: dict[str, Any] = {
    **_LTX_CALL,
    "audio_guidance_scale": 7.0,
    "spatio_temporal_guidance_blocks": (29,),
    "use_cross_timestep": False,
}


def _wan(shift: float, guidance: float, **more: Any) -> dict[str, Any]:
    call = {"guidance_scale": guidance, "negative_prompt": WAN_NO, **more.pop("stock", {})}
    return {"max_tokens": 512, "scheduler": UNIPC, "changes": {"flow_shift": shift}, "stock": call, **more}


_IMAGE = {"slots": {"image": "picture0"}, "pictures": {"image": "picture0"}, "kind": "animate"}
_BOTH = {
    "slots": {"image": "picture0", "last_image": "picture1"},
    "pictures": {"image": "picture0", "last_image": "picture1"},
    "kind": "animate",
}
_HUNYUAN: dict[str, Any] = {"fps": "24", "max_tokens": 256, "scheduler": FLOW, "forwards": 1}
_COG: dict[str, Any] = {"fps": "8", "max_tokens": 226, "forwards": 1}
_COG_CALL: dict[str, Any] = {"guidance_scale": 6.0, "negative_prompt": ""}
_DPM: dict[str, Any] = {"scheduler": "CogVideoXDPMScheduler", "changes": {"timestep_spacing": "trailing"}}
_ANIMATED: dict[str, Any] = {
    "tiny": "animatediff-ddim",
    "like": "animatediff-sd-1.5",
    "frames": 8,
    "fps": "8",
    "scheduler": "DDIMScheduler",
    "changes": {
        "beta_schedule": "linear",
        "clip_sample": False,
        "steps_offset": 1,
        "timestep_spacing": "linspace",
    },
    "stock": {"guidance_scale": 7.5, "negative_prompt": "bad quality, worst quality, blurry"},
    "forwards": 1,
}
CASES = [
    Case(tiny="ltx-t2v", like="ltx-video-0.9-2b", stock=_LTX_CALL, **_LTX),
    Case(tiny="ltx-i2v", like="ltx-video-0.9-2b", stock=_LTX_CALL, **_LTX, **_IMAGE),
    Case(stock=_COND_CALL, **_COND),
    Case(tiny="ltx2-t2v", stock=_LTX2_CALL, forwards=3, **_LTX2),
    Case(tiny="ltx2-i2v", stock=_LTX2_CALL, forwards=3, **_LTX2, **_IMAGE),
    Case(tiny="wan21-t2v", like="wan-2.1-t2v-1.3b", **_wan(3.0, 5.0)),
    Case(tiny="wan21-i2v", like="wan-2.1-i2v-14b-480p", **_wan(3.0, 5.0), **_IMAGE),
    Case(tiny="wan21-flf2v", like="wan-2.1-flf2v-14b-720p", **_wan(5.0, 5.5), **_BOTH),
    Case(tiny="wan22-t2v-a14b", like="wan-2.2-t2v-a14b", **_wan(12.0, 4.0, stock={"guidance_scale_2": 3.0})),
    Case(tiny="wan22-i2v-a14b", like="wan-2.2-i2v-a14b", **_wan(5.0, 3.5, stock={"guidance_scale_2": 3.5}), **_IMAGE),
    Case(tiny="wan22-t2v-5b", like="wan-2.2-ti2v-5b", size=(32, 32), **_wan(5.0, 5.0)),
    Case(tiny="wan22-i2v-5b", like="wan-2.2-ti2v-5b", size=(32, 32), **_wan(5.0, 5.0), **_IMAGE),
    Case(tiny="hunyuan-t2v", like="hunyuan-video", stock={"guidance_scale": 6.0}, changes={"shift": 5.0}, **_HUNYUAN),
    Case(
        tiny="hunyuan-i2v-replace",
        like="hunyuan-video-i2v",
        stock={"guidance_scale": 6.0, **LLAVA},
        call=LLAVA,
        changes={"shift": 7.0},
        **_HUNYUAN,
        **_IMAGE,
    ),
    Case(
        tiny="hunyuan15-t2v",
        like="hunyuan-video-1.5-480p-t2v",
        fps="24",
        scheduler=FLOW,
        changes={"shift": 5.0},
        stock={"negative_prompt": ""},
    ),
    Case(
        tiny="hunyuan15-i2v",
        like="hunyuan-video-1.5-480p-i2v",
        fps="24",
        shaped=False,
        scheduler=FLOW,
        changes={"shift": 5.0},
        stock={"negative_prompt": "", "num_frames": 9},
        **_IMAGE,
    ),
    Case(tiny="cogvideox-t2v-ddim", like="cogvideox-2b", stock=_COG_CALL, **_COG),
    Case(tiny="cogvideox-t2v-dpm", like="cogvideox-5b", stock={**_COG_CALL, "use_dynamic_cfg": True}, **_COG, **_DPM),
    Case(
        tiny="cogvideox-i2v",
        like="cogvideox-5b-i2v",
        stock={**_COG_CALL, "use_dynamic_cfg": True},
        **{**_COG, "max_tokens": 16},
        **_DPM,
        **_IMAGE,
    ),
    Case(
        tiny="mochi",
        like="mochi-1",
        frames=7,
        fps="30",
        max_tokens=16,
        scheduler=FLOW,
        changes={"invert_sigmas": True},
        stock={"guidance_scale": 4.5, "negative_prompt": ""},
        forwards=1,
    ),
    Case(
        tiny="svd",
        like="svd",
        size=(64, 64),
        frames=4,
        fps="7",
        stock={
            "prompt": None,
            "decode_chunk_size": 4,
            "max_guidance_scale": 3.0,
            "min_guidance_scale": 1.0,
            "motion_bucket_id": 127,
            "noise_aug_strength": 0.02,
            "fps": 7,
        },
        forwards=1,
        **_IMAGE,
    ),
    Case(**_ANIMATED),
]
WAN, A14B = CASES[5], CASES[8]
_STEERED: dict[str, Any] = {**_COND, "size": (32, 32)}
_SEGMENTS = {"segment_frame_length": 5}
_FILM: dict[str, Any] = {"slots": {"video": "film"}, "pictures": {"video": "film"}}
# The row's VAE keeps frames 1 to 8 in its second latent frame, and that is where LTX-2 is told pictures of them.
_FIRST, _SECOND = picture(32, 32, 0), picture(32, 32, 1)
_ENDS = {"slots": {"image": "picture0", "last_image": "picture1"}, "kind": "animate"}
_KEYED = {"slots": {"keyframes": "picture0"}, "kind": "animate"}
_LTX2_COND: dict[str, Any] = {**_LTX2, "tiny": "ltx2-t2v", "pipeline": "LTX2ConditionPipeline", "forwards": 3}
TASKS = [
    Case(stock=_COND_CALL, **_STEERED, **_IMAGE),
    Case(
        stock={**_COND_CALL, "strength": 0.25},
        params={"strength": 0.75},
        slots={"video": "film"},
        pictures={"video": "film"},
        **_STEERED,
    ),
    Case(
        stock={**_COND_CALL, "conditions": [LTXVideoCondition(_FIRST), LTXVideoCondition(_SECOND, frame_index=8)]},
        **_STEERED,
        **_ENDS,
    ),
    Case(
        stock={**_COND_CALL, "conditions": [LTXVideoCondition(_FIRST, frame_index=4)]},
        **_STEERED,
        **_KEYED,
    ),
    Case(
        stock={**_LTX2_CALL, "conditions": [LTX2VideoCondition(_FIRST, 0), LTX2VideoCondition(_SECOND, 1)]},
        **_LTX2_COND,
        **_ENDS,
    ),
    Case(
        stock={**_LTX2_CALL, "conditions": [LTX2VideoCondition(_FIRST, 1)]},
        **_LTX2_COND,
        **_KEYED,
    ),
    Case(
        tiny="wan21-t2v",
        like="wan-2.1-t2v-1.3b",
        pipeline="WanVideoToVideoPipeline",
        shaped=False,
        params={"strength": 0.5},
        steps=2,
        **_FILM,
        **_wan(3.0, 5.0, stock={"strength": 0.5, "width": 16, "height": 16}),
    ),
    Case(
        tiny="cogvideox-t2v-ddim",
        like="cogvideox-2b",
        pipeline="CogVideoXVideoToVideoPipeline",
        shaped=False,
        params={"strength": 0.5},
        stock={**_COG_CALL, "strength": 0.5, "width": 16, "height": 16},
        steps=2,
        **_FILM,
        **_COG,
    ),
    Case(
        pipeline="AnimateDiffVideoToVideoPipeline",
        shaped=False,
        params={"strength": 0.5},
        steps=2,
        **_FILM,
        **{**_ANIMATED, "stock": {**_ANIMATED["stock"], "strength": 0.5, "width": 16, "height": 16}},
    ),
    Case(
        tiny="wan22-first-last-a14b",
        like="wan-2.2-i2v-a14b",
        **_wan(5.0, 3.5, stock={"guidance_scale_2": 3.5}),
        **_BOTH,
    ),
    Case(
        tiny="wan21-vace",
        like="wan-2.1-vace-1.3b",
        slots={"video": "film", "mask": "film"},
        pictures={"video": "film", "mask": "film"},
        **_wan(3.0, 5.0, stock={"conditioning_scale": 1.0}),
    ),
    Case(
        tiny="wan21-vace",
        like="wan-2.1-vace-1.3b",
        slots={"reference_images": "picture0"},
        **_wan(3.0, 5.0, stock={"conditioning_scale": 1.0, "reference_images": [picture(16, 16, 0)]}),
    ),
    Case(
        tiny="hunyuan-i2v-concat",
        like="hunyuan-video-i2v-33ch",
        changes={"shift": 7.0},
        call=LLAVA,
        stock={"guidance_scale": 1.0, "num_frames": 13, **LLAVA},
        **_HUNYUAN,
        **_IMAGE,
    ),
    Case(
        tiny="wan22-animate",
        like="wan-2.2-animate-14b",
        fps="30",
        shaped=False,
        call=_SEGMENTS,
        steps=8,
        forwards=1,
        slots={"image": "picture0", "pose_video": "film", "face_video": "film"},
        pictures={"image": "picture0", "pose_video": "film", "face_video": "film"},
        **{**_wan(5.0, 1.0, stock={"width": 16, "height": 16, **_SEGMENTS}), "kind": "animate"},
    ),
]
