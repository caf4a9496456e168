"""Rows of diffusion models are whole and consistent, and whatever a request asks for, what comes out can be made."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from framewright import catalogue
from framewright import plan as planning
from framewright.catalogue.offering import FROM_PICTURES
from framewright.catalogue.row import Buckets, DigitalSource, FrameRule, ModelRow, SizeRule
from framewright.errors import AssetUnusable, InvalidParams, NotFound
from framewright.given import AssetFacts, asset_ids
from framewright.ids import ASSET, public, uuid7
from framewright.models.headers import SAFETENSORS
from framewright.params import LISTS, JobRequest, parse_size, validation_fields
from framewright.plan import Plan

ROWS = [row for row in catalogue.rows() if row.diffusion is not None]
PROMPT = {"prompt": "a fox in the snow"}
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)

MODELS = set(
    """
wan-2.1-t2v-1.3b wan-2.1-t2v-14b wan-2.1-i2v-14b-480p wan-2.1-i2v-14b-720p wan-2.1-flf2v-14b-720p wan-2.1-vace-1.3b
wan-2.1-vace-14b wan-2.2-t2v-a14b wan-2.2-i2v-a14b wan-2.2-ti2v-5b wan-2.2-animate-14b
ltx-video-0.9-2b ltx-video-0.9.5-2b ltx-video-0.9.6-2b ltx-video-0.9.6-2b-distilled ltx-video-0.9.7-13b
ltx-video-0.9.7-13b-distilled ltx-video-0.9.8-13b ltx-video-0.9.8-13b-distilled
ltx-2-19b ltx-2.3-22b ltx-2.3-22b-distilled ltx-2.5-22b
hunyuan-video hunyuan-video-i2v hunyuan-video-i2v-33ch
hunyuan-video-1.5-480p-t2v hunyuan-video-1.5-480p-i2v hunyuan-video-1.5-480p-t2v-distilled
hunyuan-video-1.5-480p-i2v-distilled hunyuan-video-1.5-480p-i2v-step-distilled hunyuan-video-1.5-720p-t2v
hunyuan-video-1.5-720p-i2v hunyuan-video-1.5-720p-i2v-distilled
mochi-1 cogvideox-2b cogvideox-5b cogvideox-5b-i2v cogvideox-1.5-5b cogvideox-1.5-5b-i2v
svd svd-xt svd-xt-1.1 animatediff-sd-1.5
""".split()  # noqa: SIM905 - a paragraph of names
)


def asset(
    kind: Literal["image", "video", "other"] = "image",
    width: int | None = 1280,
    height: int | None = 720,
    frames: int | None = 1,
    content_type: str | None = None,
) -> tuple[str, AssetFacts]:
    ident = uuid7()
    facts = AssetFacts(
        ident, content_type or f"{kind}/x", kind, 1000, width, height, frames,
        "25/1" if kind == "video" else None, None, f"t/default/a/{ident.hex}", "00" * 32,
    )  # fmt: skip
    return public(ASSET, ident), facts


def filled(row: ModelRow, task: str) -> tuple[dict[str, Any], dict[str, AssetFacts]]:
    """An input that makes it that task, and its assets."""
    assert row.diffusion is not None
    given_, assets = dict[str, Any](), dict[str, AssetFacts]()
    for slot in row.diffusion.slots[task][0].needs:  # type: ignore[index]
        rule = next(rule for rule in row.inputs if rule.slot == slot)
        name, facts = asset("video", frames=97) if rule.accepts == "video" else asset()
        assets[name] = facts
        given_[slot] = name
        if slot == "keyframes":
            given_[slot] = [{"image": name, "frame": 0}]
        elif slot in LISTS:
            given_[slot] = [name]
    return given_, assets


def plan(
    row: ModelRow, /, *, task: str | None = None, kind: str | None = None, input_: Any = None, **params: Any
) -> Plan:
    assert row.diffusion is not None
    task = task or row.diffusion.load_as
    slots, assets = filled(row, task) if input_ is None else input_
    if row.diffusion.prompt:
        params = PROMPT | params
    kind = kind or ("animate" if task in FROM_PICTURES else "generate")
    body = {"kind": kind, "model": row.name, "input": slots, "params": params}
    return planning.plan(JobRequest.model_validate(body), assets)


def refused(row: ModelRow, /, error: type[InvalidParams | NotFound] = InvalidParams, **options: Any) -> tuple[str, str]:
    with pytest.raises(error) as caught:
        plan(row, **options)
    (wrong,) = caught.value.fields
    return wrong.pointer, wrong.code


def row_of(name: str) -> ModelRow:
    return next(row for row in ROWS if row.name == name)


def told(made: Plan) -> dict[str, tuple[Any, Any]]:
    assert all(change.why for change in made.adjusted)
    return {change.field: (change.asked, change.used) for change in made.adjusted}


def test_every_model_that_the_issue_names_has_its_row() -> None:
    assert {row.name for row in ROWS} == MODELS


def test_what_is_generated_without_a_model_is_free_and_fits_a_small_gpu() -> None:
    row = catalogue.find("generate", None)
    assert row.licence.name == "Apache-2.0"
    assert not row.licence.accept
    assert 0 < row.needs.vram_mb <= 8_000
    assert catalogue.find("animate", None).name == "camera-move"


@every_row
def test_a_row_is_whole(row: ModelRow) -> None:
    facts = row.diffusion
    assert facts is not None
    assert (row.engine, row.queue, row.seed is not None) == ("diffusion", "gpu", True)
    assert row.provenance.action == "c2pa.created"
    assert row.provenance.source is DigitalSource.TRAINED
    assert facts.pipelines.keys() == facts.slots.keys()
    assert facts.load_as in facts.pipelines
    assert facts.repo.id.count("/") == 1
    for repo in filter(None, (facts.repo, facts.base, facts.upscale and facts.upscale.repo)):
        assert repo.revision is None or re.fullmatch(r"[0-9a-f]{40}", repo.revision)
        assert all(pattern.endswith((".safetensors", ".json", ".txt", ".model", ".jinja")) for pattern in repo.files)
        assert repo.single is None or repo.files == (repo.single,)
    assert facts.base is not None or facts.repo.single is None
    assert 2 <= facts.steps.least <= facts.steps.default <= facts.steps.most
    assert all(rule.least <= rule.default <= rule.most for rule in facts.guidance)
    assert len(facts.guidance) <= 2
    assert 1 <= facts.fps <= 60
    assert "default" in facts.dtypes
    assert set(facts.dtypes.values()) <= {"bfloat16", "float16", "float32"}
    assert facts.strength is None or "v2v" in facts.pipelines
    assert ("v2v" in facts.pipelines) == (facts.strength is not None)


@every_row
def test_profiles_go_from_the_most_memory_to_the_least(row: ModelRow) -> None:
    assert row.diffusion is not None
    sizes = [profile.vram_mb for profile in row.diffusion.profiles]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)
    assert row.needs.vram_mb == sizes[-1]
    assert len({profile.name for profile in row.diffusion.profiles}) == len(sizes)
    assert not any(profile.tiling and not row.diffusion.tiling for profile in row.diffusion.profiles)


@every_row
def test_a_licence_says_what_it_forbids(row: ModelRow) -> None:
    licence = row.licence
    assert licence.url is not None
    assert licence.url.startswith("https://")
    assert licence.accept == (licence.name not in {"Apache-2.0", "MIT"})
    if licence.accept:
        assert licence.note
    if licence.revenue_cap_usd:
        assert f"{licence.revenue_cap_usd:,}" in (licence.note or "")


def test_the_licences_that_pages_get_wrong() -> None:
    assert {row.licence.name for row in ROWS if row.name.startswith("wan-")} == {"Apache-2.0"}
    assert row_of("ltx-video-0.9.5-2b").licence.name == "LTX-Video OpenRAIL-M"
    assert row_of("ltx-video-0.9.6-2b").licence.revenue_cap_usd == 10_000_000
    for row in ROWS:
        assert (row.licence.excluded_regions == ("EU", "GB", "KR")) == row.name.startswith("hunyuan")


@every_row
def test_the_usual_size_and_length_are_on_the_rules(row: ModelRow) -> None:
    size, frames = row.size, row.frames
    for wide, tall in filter(None, (size.default, size.shaped(16, 9), *size.only)):
        assert wide % size.multiple == tall % size.multiple == 0
        assert size.least <= min(wide, tall) <= max(wide, tall) <= size.most
        assert size.max_area is None or wide * tall <= size.max_area
    assert frames.default is not None
    for count in (frames.least, frames.default, frames.most):
        assert (count - frames.offset) % frames.stride == 0
        assert frames.up(count) == frames.down(count) == count
    assert frames.least <= frames.default <= frames.most


@every_row
def test_the_sizes_and_lengths_are_those_that_the_latents_allow(row: ModelRow) -> None:
    assert row.diffusion is not None
    latents = row.diffusion.latents
    assert row.size.multiple % latents.spatial == 0
    if "character" not in row.diffusion.pipelines:  # its pipeline pads to whole segments, and cuts
        assert row.frames.stride % latents.temporal == 0
        assert row.frames.offset == (1 if latents.temporal > 1 else 0)


@every_row
def test_every_task_can_be_planned_and_follows_from_what_is_given(row: ModelRow) -> None:
    assert row.diffusion is not None
    for task in row.diffusion.pipelines:
        made = plan(row, task=task)
        assert made.params["task"] == task
        wide, tall = parse_size(made.params["size"])
        assert wide % row.size.multiple == tall % row.size.multiple == 0
        assert wide * tall <= (row.size.max_area or row.size.most**2)
        assert row.frames.up(made.params["frames"]) == made.params["frames"]
        assert made.params["seed"] >= 0
        assert "seconds" not in made.params
        assert made.params["steps"] == row.diffusion.steps.default
        assert "/" in made.params["fps"]


@every_row
def test_presets_are_accepted_and_a_quality_one_is_there(row: ModelRow) -> None:
    for preset in row.presets:
        row.params.model_validate((PROMPT if "prompt" in row.params.model_fields else {}) | dict(preset.params))
        size = preset.params.get("size")
        assert size is None or parse_size(size) == tuple(row.size.up(side) for side in parse_size(size))
        # A picture or video has a shape of its own, which a preset must not take from it.
        assert size is None or not row.inputs
        # A request may say frames or seconds, and a preset must not be the other one.
        assert not {"frames", "seconds"} & preset.params.keys()
    names = [preset.name for preset in row.presets]
    if row.diffusion and row.diffusion.steps.least < row.diffusion.steps.most:
        assert names == ["draft", "fast", "quality"]
        counts = [preset.params["steps"] for preset in row.presets]
        assert counts == sorted(counts)


@every_row
def test_only_what_a_model_can_be_told_is_a_field(row: ModelRow) -> None:
    facts, fields = row.diffusion, row.params.model_fields
    assert facts is not None
    assert ("prompt" in fields) == facts.prompt
    assert ("negative_prompt" in fields) == (facts.negative is not None)
    assert ("steps" in fields) == (facts.steps.least < facts.steps.most)
    assert [name for name in ("guidance", "guidance_2") if name in fields] == ["guidance", "guidance_2"][
        : len(facts.guidance)
    ]
    assert ("flow_shift" in fields) == (facts.scheduler.shift is not None)
    assert ("strength" in fields) == (facts.strength is not None)
    assert ("loras" in fields) == (facts.lora is not None)
    assert ("cache" in fields) == bool(facts.caches)
    assert ("refine" in fields) == (facts.upscale is not None)
    assert {knob.name for knob in facts.knobs} <= fields.keys()
    assert list(fields)[-3:] == ["format", "quality", "embed_metadata"]
    shown = catalogue.describe(row)["params_schema"]["properties"]
    assert shown["frames"]["default"] == row.frames.default
    assert shown["fps"]["x-unit"] == "frames/s"
    assert shown["size"]["x-group"] == "clip"


SMALL = row_of("wan-2.1-t2v-1.3b")
QUICK = row_of("ltx-video-0.9.5-2b")


@settings(deadline=None)
@given(st.sampled_from(ROWS), st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 1000))
def test_whatever_is_asked_is_made_or_refused_by_field(row: ModelRow, wide: int, tall: int, frames: int) -> None:
    try:
        made = plan(row, size=f"{wide}x{tall}", frames=frames)
    except InvalidParams as error:
        wrong = {wrong.pointer for wrong in error.fields}
    else:
        wrong = set()
    assert wrong <= {"/params/size", "/params/frames"}
    if wrong:
        return
    used = parse_size(made.params["size"])
    assert used[0] % row.size.multiple == used[1] % row.size.multiple == 0
    assert made.params["frames"] == row.frames.up(frames) <= row.frames.most
    assert ("/params/size" in told(made)) == (used != (wide, tall))
    assert ("/params/frames" in told(made)) == (made.params["frames"] != frames)
    if row.size.buckets is None:
        assert 0 <= used[0] - wide < row.size.multiple


@settings(deadline=None)
@given(st.sampled_from(ROWS), st.integers(1, 9000), st.integers(1, 9000))
def test_a_clip_of_a_picture_has_its_shape_and_the_usual_area(row: ModelRow, wide: int, tall: int) -> None:
    used = row.size.shaped(wide, tall)
    assert used[0] % row.size.multiple == used[1] % row.size.multiple == 0
    assert all(row.size.up(row.size.least) <= side <= row.size.most for side in used)
    area = row.size.buckets.base**2 if row.size.buckets else None
    if row.size.default is not None:
        area = row.size.default[0] * row.size.default[1]
    assert area is not None
    assert used[0] * used[1] <= area
    if 0.7 < wide / tall < 1.4 and not row.size.only and area > 4 * row.size.least**2:
        assert used[0] * used[1] > area * 0.75
        assert abs(used[0] / used[1] - wide / tall) < 0.35


def test_frames_off_the_rule_go_up_and_it_is_told() -> None:
    assert told(plan(SMALL, frames=80)) == {"/params/frames": (80, 81)}
    assert told(plan(SMALL, frames=81)) == {}
    assert plan(SMALL).params["frames"] == 81
    assert told(plan(QUICK, frames=2)) == {"/params/frames": (2, 9)}
    assert refused(SMALL, frames=122) == ("/params/frames", "out_of_range")


def test_seconds_become_frames_by_the_same_rule() -> None:
    made = plan(SMALL, seconds=3)
    assert (made.params["frames"], made.params["fps"]) == (49, "16/1")
    assert told(made) == {"/params/seconds": (3, 3.0625)}
    assert plan(SMALL, seconds=3, fps=8).params["frames"] == 25
    assert refused(SMALL, seconds=30) == ("/params/seconds", "out_of_range")


def test_a_size_off_the_rule_goes_up_and_one_out_of_range_is_refused() -> None:
    assert told(plan(QUICK, size="1280x720")) == {"/params/size": ("1280x720", "1280x736")}
    for size in ("128x480", "832x99999", "1280x1280"):
        assert refused(QUICK, size=size) == ("/params/size", "out_of_range")
    assert refused(row_of("cogvideox-5b-i2v"), size="640x480") == ("/params/size", "out_of_range")


def test_a_list_of_sizes_is_made_once() -> None:
    assert Buckets(640).every() is Buckets(640).every()


def test_a_pipeline_with_a_list_of_sizes_is_told_of_by_that_list() -> None:
    row = row_of("hunyuan-video-1.5-480p-i2v")
    picture = asset(width=1024, height=768)
    made = plan(row, input_=({"image": picture[0]}, dict([picture])))
    size = parse_size(made.params["size"])
    assert size in Buckets(640).every()
    assert Buckets(640).taken(*size) == size
    assert abs(size[0] / size[1] - 4 / 3) < 0.05
    seen = f"{round(768 * size[0] / size[1])}x768"
    assert told(made) == {"/params/size": ("1024x768", made.params["size"]), "/input/image": ("1024x768", seen)}


@pytest.mark.parametrize(
    ("params", "place", "code"),
    [
        ({"steps": 1}, "/params/steps", "out_of_range"),
        ({"steps": 101}, "/params/steps", "out_of_range"),
        ({"prompt": ""}, "/params/prompt", "out_of_range"),
        ({"prompt": " \n\t"}, "/params/prompt", "blank"),
        ({"prompt": "x" * 100_000}, "/params/prompt", "out_of_range"),
        ({"prompt": None}, "/params/prompt", "wrong_type"),
        ({"frames": 17, "seconds": 1.0}, "/params/seconds", "conflict"),
        ({"seed": 2**63}, "/params/seed", "out_of_range"),
        ({"seed": -1}, "/params/seed", "out_of_range"),
        ({"cache": "turbo"}, "/params/cache", "not_one_of"),
        ({"format": "avi"}, "/params/format", "not_one_of"),
        ({"guidance_2": 3.0}, "/params/guidance_2", "unknown_field"),
        ({"motion": 3}, "/params/motion", "unknown_field"),
        ({"loras": [{"scale": 1.0}]}, "/params/loras/0/name", "missing"),
        ({"loras": [{"asset": "asset_1", "name": "x"}]}, "/params/loras/0/name", "conflict"),
        ({"loras": [{"name": "x"}] * 5}, "/params/loras", "out_of_range"),
        ({"loras": [{"name": "x", "scale": 9}]}, "/params/loras/0/scale", "out_of_range"),
        ({"size": "wide"}, "/params/size", "wrong_format"),
    ],
)
def test_a_wrong_param_is_named(params: dict[str, Any], place: str, code: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SMALL.params.model_validate(PROMPT | params)
    assert [(wrong.pointer, wrong.code) for wrong in validation_fields(caught.value, at="/params")] == [(place, code)]


def test_a_missing_prompt_is_named_and_a_model_without_words_takes_none() -> None:
    with pytest.raises(ValidationError) as caught:
        SMALL.params.model_validate({})
    assert [(wrong.pointer, wrong.code) for wrong in validation_fields(caught.value)] == [("/prompt", "missing")]
    assert refused(row_of("svd"), **PROMPT) == ("/params/prompt", "unknown_field")


def test_the_seed_is_drawn_and_recorded_and_the_largest_is_kept() -> None:
    assert plan(SMALL).params["seed"] != plan(SMALL).params["seed"]
    assert plan(SMALL, seed=2**63 - 1).params["seed"] == 2**63 - 1


def test_inputs_that_do_not_go_together_are_refused() -> None:
    image, last, clip = asset(), asset(), asset("video", frames=49)
    both = ({"image": image[0], "video": clip[0]}, dict([image, clip]))
    assert refused(QUICK, input_=both) == ("/input", "not_together")
    only_last = ({"last_image": last[0]}, dict([last]))
    assert refused(QUICK, input_=only_last) == ("/input", "not_together")
    assert refused(SMALL, input_=({"image": image[0]}, dict([image]))) == ("/input/image", "unknown_field")
    assert refused(row_of("wan-2.1-flf2v-14b-720p"), input_=({"image": image[0]}, dict([image]))) == (
        "/input/last_image", "missing",
    )  # fmt: skip
    mask = asset("video")
    assert refused(row_of("wan-2.1-vace-1.3b"), input_=({"mask": mask[0]}, dict([mask]))) == ("/input", "not_together")


def test_there_must_be_a_picture_to_animate() -> None:
    assert refused(QUICK, input_=({}, {}), kind="animate") == ("/input/image", "missing")
    clip = asset("video", frames=49)
    assert refused(QUICK, input_=({"video": clip[0]}, dict([clip])), kind="animate") == ("/input/image", "missing")
    assert plan(QUICK, task="i2v", kind="generate").params["task"] == "i2v"


def test_a_wrong_medium_is_named() -> None:
    image, clip = asset(), asset("video")
    sound = asset("other", None, None, content_type="audio/wav")
    cases: list[tuple[ModelRow, dict[str, Any], tuple[str, AssetFacts], str]] = [
        (QUICK, {"image": clip[0]}, clip, "/input/image"),
        (QUICK, {"video": image[0]}, image, "/input/video"),
        (QUICK, {"keyframes": [{"image": clip[0], "frame": 0}]}, clip, "/input/keyframes/0/image"),
        (row_of("wan-2.1-vace-14b"), {"reference_images": [clip[0]]}, clip, "/input/reference_images/0"),
        (row_of("ltx-2-19b"), {"audio": clip[0]}, clip, "/input/audio"),
    ]
    for row, slots, one, place in cases:
        assert refused(row, AssetUnusable, input_=(slots, dict([one]))) == (place, "asset_unusable")
    assert refused(QUICK, input_=({"audio": sound[0]}, dict([sound]))) == ("/input/audio", "unknown_field")


def test_keyframes_go_where_they_are_asked_for() -> None:
    first, middle, last = asset(), asset(), asset()
    slots = {
        "keyframes": [
            {"image": first[0], "frame": 0},
            {"image": middle[0], "frame": 40, "strength": 0.5},
            {"image": last[0], "frame": -1},
        ]
    }
    assets = dict([first, middle, last])
    made = plan(QUICK, input_=(slots, assets), frames=96)
    assert made.params["keyframes"] == [
        {"frame": 0, "strength": 1.0},
        {"frame": 40, "strength": 0.5},
        {"frame": 96, "strength": 1.0},
    ]
    assert [entry["asset"] for entry in made.steps[0].inputs["keyframes"]] == [one.id.hex for one in assets.values()]
    assert refused(QUICK, input_=(slots, assets), frames=33) == ("/input/keyframes/1/frame", "out_of_range")
    assert refused(QUICK, input_=(slots, assets), frames=41) == ("/input/keyframes/2/frame", "duplicate")


def test_keyframes_of_a_model_that_moves_them_say_where_they_went() -> None:
    row, stills = row_of("ltx-2-19b"), [asset(width=768, height=512) for _ in range(4)]

    def placed(*frames: int) -> Plan:
        slots = {"keyframes": [{"image": one[0], "frame": frame} for one, frame in zip(stills, frames, strict=False)]}
        return plan(row, input_=(slots, dict(stills)), frames=121, size="768x512")

    made = placed(0, 40, 49, -1)
    assert [one["frame"] for one in made.params["keyframes"]] == [0, 33, 49, 113]
    assert told(made) == {"/input/keyframes/1/frame": (40, 33), "/input/keyframes/3/frame": (-1, 113)}
    assert [one["frame"] for one in placed(0, 1, 9).params["keyframes"]] == [0, 1, 9]
    with pytest.raises(InvalidParams) as caught:
        placed(0, 33, 40)
    assert [(wrong.pointer, wrong.code) for wrong in caught.value.fields] == [("/input/keyframes/2/frame", "duplicate")]


def test_what_a_clip_does_not_show_of_a_picture_is_told() -> None:
    tall, wide, fitting = asset(width=600, height=800), asset(width=1600, height=400), asset(width=1536, height=1024)
    two = ({"image": tall[0], "last_image": wide[0]}, dict([tall, wide]))
    assert told(plan(QUICK, input_=two, kind="animate", size="768x512")) == {
        "/input/image": ("600x800", "600x400"),
        "/input/last_image": ("1600x400", "600x400"),
    }
    keys = ({"keyframes": [{"image": fitting[0], "frame": 0}, {"image": tall[0], "frame": 8}]}, dict([fitting, tall]))
    assert told(plan(QUICK, input_=keys, kind="animate", size="768x512")) == {
        "/input/keyframes/1/image": ("600x800", "600x400")
    }
    clip = asset("video", 640, 360, frames=49)
    square = told(plan(SMALL, input_=({"video": clip[0]}, dict([clip])), frames=49, size="512x512"))
    assert square == {"/input/video": ("640x360", "360x360")}


def test_a_face_is_cropped_to_a_square_of_its_own() -> None:
    row = row_of("wan-2.2-animate-14b")
    still, pose, face = asset(), asset("video", 1280, 720, frames=77), asset("video", 640, 480, frames=77)
    slots = {"image": still[0], "pose_video": pose[0], "face_video": face[0]}
    made = plan(row, input_=(slots, dict([still, pose, face])), size="1280x720")
    assert told(made) == {"/input/face_video": ("640x480", "480x480")}


@pytest.mark.parametrize(
    ("steps", "strength", "least"), [(50, 0.0, 0.02), (50, 0.019, 0.02), (20, 0.04, 0.05), (49, 0.02, 0.021)]
)
def test_a_strength_that_changes_nothing_is_refused_with_the_least_that_does(
    steps: int, strength: float, least: float
) -> None:
    clip = asset("video", 832, 480, frames=49)
    given_ = ({"video": clip[0]}, dict([clip]))
    with pytest.raises(InvalidParams) as caught:
        plan(SMALL, input_=given_, steps=steps, strength=strength)
    (wrong,) = caught.value.fields
    assert (wrong.pointer, wrong.code) == ("/params/strength", "out_of_range")
    assert str(least) in wrong.detail
    assert plan(SMALL, input_=given_, steps=steps, strength=least).params["strength"] == least
    assert int(steps * least) == 1


def test_a_strength_of_nothing_is_taken_where_every_step_is() -> None:
    clip = asset("video", 768, 512, frames=49)
    assert plan(QUICK, input_=({"video": clip[0]}, dict([clip])), strength=0.0).params["strength"] == 0.0
    # Without a video there is nothing for it to say.
    assert plan(SMALL, task="t2v", strength=0.0).params["task"] == "t2v"


def test_a_video_says_how_long_and_how_fast() -> None:
    clip = asset("video", 640, 360, frames=50)
    given_ = ({"video": clip[0]}, dict([clip]))
    made = plan(SMALL, input_=given_, strength=0.5)
    assert (made.params["task"], made.params["frames"], made.params["fps"]) == ("v2v", 49, "25/1")
    assert told(made)["/params/frames"] == (50, 49)
    assert plan(SMALL, input_=given_, frames=17).params["frames"] == 17
    assert plan(SMALL, input_=given_, frames=50).params["frames"] == 49
    assert refused(SMALL, input_=given_, frames=60) == ("/params/frames", "out_of_range")
    short = asset("video", frames=3)
    assert refused(SMALL, input_=({"video": short[0]}, dict([short]))) == ("/input/video", "out_of_range")


def test_loras_among_the_assets_become_inputs_of_the_step() -> None:
    weights = asset("other", None, None, content_type=SAFETENSORS)
    loras = [{"name": "film"}, {"asset": weights[0], "scale": 0.5}]
    body = {"kind": "generate", "model": SMALL.name, "params": PROMPT | {"loras": loras}}
    request = JobRequest.model_validate(body)
    assert asset_ids(request) == {"/params/loras/1/asset": weights[0]}
    made = planning.plan(request, dict([weights]))
    assert [entry["asset"] for entry in made.steps[0].inputs["loras"]] == [weights[1].id.hex]
    assert made.params["loras"][1]["scale"] == 0.5
    with pytest.raises(NotFound) as caught:
        planning.plan(request, {})
    assert [wrong.pointer for wrong in caught.value.fields] == ["/params/loras/1/asset"]
    for other in (asset(), asset("other", None, None, content_type="application/zip")):
        body["params"] = PROMPT | {"loras": [{"asset": other[0]}]}
        with pytest.raises(AssetUnusable) as wrong_kind:
            planning.plan(JobRequest.model_validate(body), dict([other]))
        assert [wrong.pointer for wrong in wrong_kind.value.fields] == ["/params/loras/0/asset"]


def test_a_hosted_model_is_listed_and_refused() -> None:
    row = catalogue.find("generate", "wan-2.6")
    assert row.elsewhere
    assert row.engine not in {other.engine for other in ROWS}
    assert catalogue.describe(row)["elsewhere"] == row.elsewhere
    body = {"kind": "generate", "model": "wan-2.6", "params": PROMPT}
    with pytest.raises(InvalidParams) as caught:
        planning.plan(JobRequest.model_validate(body), {})
    assert [(wrong.pointer, wrong.code) for wrong in caught.value.fields] == [("/model", "not_available")]


def test_the_shift_depends_on_the_short_side() -> None:
    facts = row_of("wan-2.1-t2v-14b").diffusion
    assert facts is not None
    assert [facts.scheduler.shift_for(side) for side in (256, 480, 719, 720, 1080)] == [3.0, 3.0, 3.0, 5.0, 5.0]


@given(st.integers(1, 40), st.integers(0, 8), st.integers(1, 20), st.integers(0, 400))
def test_frame_rules_go_up_and_down_to_what_they_allow(stride: int, offset: int, multiples: int, asked: int) -> None:
    rule = FrameRule("params", stride=stride, offset=offset, least=stride + offset, most=stride * multiples + offset)
    up, down = rule.up(asked), rule.down(asked)
    assert up >= max(asked, rule.least)
    assert up - asked < stride or up == rule.least
    assert (up - offset) % stride == 0
    assert down == 0 or (rule.least <= down <= min(asked, rule.most) and (down - offset) % stride == 0)


def test_a_long_picture_does_not_leave_the_limits() -> None:
    rule = SizeRule("model", multiple=32, least=256, most=1280, default=(768, 512))
    assert rule.shaped(10_000, 100) == (1280, 256)
    assert rule.shaped(1, 9_000) == (256, 1280)
    narrow = SizeRule("model", multiple=16, least=256, most=1360, default=(720, 480))
    assert (narrow.shaped(2127, 400), narrow.shaped(400, 2127)) == ((1344, 256), (256, 1344))
    assert rule.shaped(768, 512) == (768, 512)


def test_a_step_of_a_pipeline_can_take_the_clip_of_another() -> None:
    body = {
        "kind": "pipeline",
        "steps": [
            {"name": "clip", "kind": "generate", "params": PROMPT},
            {"name": "again", "kind": "generate", "model": SMALL.name, "input": {"video": "@clip"}, "params": PROMPT},
        ],
    }
    made = planning.plan(JobRequest.model_validate(body), {})
    assert made.steps[1].params["task"] == "v2v"
    assert made.steps[1].inputs == {"video": {"step": "clip"}}
    assert Fraction(made.steps[1].params["fps"]) == 16


@pytest.mark.parametrize(
    ("asked", "used"), [(24, "25/1"), (25, None), (50, None), (60, "50/1"), (30, "100/3"), (16, "50/3"), (8, "25/3")]
)
def test_a_gif_gets_the_nearest_rate_that_it_can_keep_and_says_so(asked: int, used: str | None) -> None:
    made = plan(row_of("wan-2.1-t2v-1.3b"), format="gif", fps=asked, frames=17)
    assert told(made) == ({} if used is None else {"/params/fps": (f"{asked}/1", used)})
    assert made.params["fps"] == (used or f"{asked}/1")
    assert plan(row_of("wan-2.1-t2v-1.3b"), fps=asked, frames=17).params["fps"] == f"{asked}/1"


def test_a_gif_counts_its_seconds_by_the_rate_that_it_keeps() -> None:
    made = plan(row_of("wan-2.1-t2v-1.3b"), format="gif", fps=60, seconds=0.98)
    assert (made.params["fps"], made.params["frames"]) == ("50/1", 49)
