"""An operator's own models: like those of the catalogue, with other weights and limits; a wrong key is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from framewright import catalogue
from framewright import plan as planning
from framewright.catalogue.diffusion import Diffusion
from framewright.catalogue.own import load
from framewright.catalogue.row import ModelRow
from framewright.errors import SettingsError, UnknownModel
from framewright.params import JobRequest
from framewright.settings import Settings

KNOWN = catalogue.rows()
Wrote = Callable[[str], Path]


@pytest.fixture
def wrote(tmp_path: Path) -> Wrote:
    def write(text: str) -> Path:
        file = tmp_path / "models.toml"
        file.write_text(text)
        return file

    return write


@pytest.fixture
def installed() -> Iterator[Callable[[Path | None], None]]:
    yield catalogue.install
    catalogue.install(None)


TINY = """
[[model]]
name = "tiny-wan"
like = "wan-2.1-t2v-1.3b"
path = "weights/tiny"
title = "A tiny Wan"
fps = 8
size = { multiple = 16, least = 16, most = 64, default = "32x32" }
frames = { default = 9, most = 17 }
steps = { default = 4, most = 10 }
dtype = "float32"
vram_mb = 0
max_tokens = 16
shift = 2.5
guidance = [3.0]
latents = { channels = 4 }
"""


HEAD = '[[model]]\nname = "mine"\nlike = "wan-2.1-t2v-1.3b"\n'
ANIMATED = HEAD.replace("wan-2.1-t2v-1.3b", "wan-2.2-animate-14b")
NOISY = HEAD.replace("wan-2.1-t2v-1.3b", "ltx-video-0.9.5-2b")


def facts_of(text: str, wrote: Wrote) -> Diffusion:
    facts = only(wrote(text)).diffusion
    assert facts is not None
    return facts


def only(file: Path) -> ModelRow:
    (row,) = load(file, KNOWN)
    return row


def test_a_fine_tune_is_like_its_row_in_all_that_it_does_not_say(wrote: Wrote, tmp_path: Path) -> None:
    row, like = only(wrote(TINY)), catalogue.find("generate", "wan-2.1-t2v-1.3b")
    facts, theirs = row.diffusion, like.diffusion
    assert facts is not None
    assert theirs is not None
    assert (row.name, row.title, row.summary, row.licence) == ("tiny-wan", "A tiny Wan", like.summary, like.licence)
    assert (row.kinds, row.inputs, row.engine, row.default_for) == (like.kinds, like.inputs, "diffusion", ())
    assert (facts.pipelines, facts.slots, facts.lora) == (theirs.pipelines, theirs.slots, theirs.lora)
    assert facts.folder == tmp_path / "weights/tiny"
    assert (facts.steps.default, facts.steps.least, facts.steps.most) == (4, 2, 10)
    assert (facts.latents.channels, facts.latents.spatial) == (4, 8)
    assert facts.scheduler.shift_for(32) == 2.5
    assert [rule.default for rule in facts.guidance] == [3.0]
    assert dict(facts.dtypes) == {"default": "float32", "vae": "float32"}
    assert (row.needs.vram_mb, [profile.vram_mb for profile in facts.profiles]) == (0, [0])
    assert (row.frames.default, row.frames.most, row.frames.stride) == (9, 17, 4)
    assert (row.size.default, row.size.max_area) == ((32, 32), None)
    # A preset that asks for more than the model can do is left out.
    assert [preset.name for preset in row.presets] == []


def test_another_repository_keeps_the_rest(wrote: Wrote) -> None:
    text = '[[model]]\nname = "my.wan"\nlike = "wan-2.2-ti2v-5b"\nrepo = "me/my-wan"\n'
    row, like = only(wrote(text + f'revision = "{"a" * 40}"\n')), catalogue.find("animate", "wan-2.2-ti2v-5b")
    assert row.diffusion is not None
    assert (row.diffusion.repo.id, row.diffusion.repo.revision) == ("me/my-wan", "a" * 40)
    assert (row.size, row.frames, row.presets) == (like.size, like.frames, like.presets)
    assert row.needs == like.needs


def test_another_precision_leaves_parts_that_need_32_bits_alone(wrote: Wrote) -> None:
    fine = facts_of(HEAD.replace("t2v-1.3b", "i2v-14b-480p") + 'dtype = "float16"\n', wrote)
    assert dict(fine.dtypes) == {"default": "float16", "vae": "float32", "image_encoder": "float32"}
    mixed = facts_of(HEAD.replace("wan-2.1-t2v-1.3b", "hunyuan-video") + 'dtype = "float16"\n', wrote)
    assert dict(mixed.dtypes) == {"default": "float16"}


def test_arguments_of_the_call_are_passed_as_they_are_beside_those_of_the_row(wrote: Wrote) -> None:
    text = HEAD.replace("wan-2.1-t2v-1.3b", "hunyuan-video-i2v")
    template = "prompt_template = { template = 'A {} B', crop_start = 103 }"
    facts = facts_of(f"{text}call = {{ {template}, true_cfg_scale = 1.5, skip = [1, 2], eager = true }}\n", wrote)
    passed = {"prompt_template": {"template": "A {} B", "crop_start": 103}}
    assert dict(facts.call) == {**passed, "true_cfg_scale": 1.5, "skip": [1, 2], "eager": True}
    text = HEAD.replace("wan-2.1-t2v-1.3b", "svd")
    assert dict(facts_of(text, wrote).call) == {"decode_chunk_size": 4}
    assert dict(facts_of(text + "call = { decode_chunk_size = 1 }\n", wrote).call) == {"decode_chunk_size": 1}


def test_noise_levels_of_ones_own_come_with_as_many_steps(wrote: Wrote) -> None:
    steps = "steps = { default = 2, least = 2, most = 2 }\n"
    facts = facts_of(HEAD + steps + "call = { timesteps = [1000, 500] }\n", wrote)
    assert (facts.call["timesteps"], facts.steps.most) == ([1000, 500], 2)


def test_a_folder_of_ones_own_has_a_second_stage_only_where_that_is_said(wrote: Wrote) -> None:
    large = HEAD.replace("wan-2.1-t2v-1.3b", "ltx-video-0.9.7-13b")
    for more, refined in (('path = "x"\n', False), ('path = "x"\nupscaler = true\n', True), ('repo = "a/b"\n', True)):
        row = only(wrote(large + more))
        assert ("refine" in row.params.model_fields) == refined
        assert any("refine" in preset.params for preset in row.presets) == refined


def test_a_repository_takes_the_place_of_the_folder_of_another_row_of_ones_own(wrote: Wrote) -> None:
    again = '[[model]]\nname = "pulled"\nlike = "tiny-wan"\nrepo = "a/b"\n'
    _, row = load(wrote(TINY + again), KNOWN)
    assert row.diffusion is not None
    assert (row.diffusion.folder, row.diffusion.repo.id) == (None, "a/b")


def test_a_row_may_be_like_one_before_it(wrote: Wrote) -> None:
    again = '[[model]]\nname = "tinier"\nlike = "tiny-wan"\nfps = "30000/1001"\n'
    rows = load(wrote(TINY + again), KNOWN)
    assert [row.name for row in rows] == ["tiny-wan", "tinier"]
    assert rows[1].size == rows[0].size


def test_installed_models_are_found_planned_and_described(
    wrote: Wrote, installed: Callable[[Path | None], None]
) -> None:
    with pytest.raises(UnknownModel):
        catalogue.find("generate", "tiny-wan")
    installed(wrote(TINY))
    body = {"kind": "generate", "model": "tiny-wan", "params": {"prompt": "x", "frames": 8}}
    made = planning.plan(JobRequest.model_validate(body), {})
    assert (made.params["frames"], made.params["size"], made.params["fps"]) == (9, "32x32", "8/1")
    assert catalogue.describe(catalogue.find("generate", "tiny-wan"))["licence"]["name"] == "Apache-2.0"
    assert len(catalogue.rows()) == len(KNOWN) + 1


def test_the_api_and_workers_read_the_file_that_the_setting_names(
    wrote: Wrote, tmp_path: Path, installed: Callable[[Path | None], None]
) -> None:
    from api import parts
    from api.metrics import Metrics
    from workers.supervisor import Supervisor

    settings = Settings(
        database_url=SecretStr("postgresql://nobody@127.0.0.1:1/none"),
        redis_url=SecretStr("redis://127.0.0.1:1/0"),
        key_pepper=SecretStr("pepper"),
        scratch_dir=tmp_path,
        provenance=False,
        catalogue=wrote(TINY),
    )
    starts: tuple[Callable[[], object], ...] = (
        lambda: parts.build(settings, Metrics()),
        lambda: Supervisor(settings),
    )
    for start in starts:
        installed(None)
        start()
        assert catalogue.find("generate", "tiny-wan").title == "A tiny Wan"


def test_without_a_file_there_is_nothing_of_ones_own() -> None:
    assert load(None, KNOWN) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[model]]\nname = "mine"\n', "model 1 (mine): like: like is required"),
        ('[[model]]\nlike = "wan-2.1-t2v-1.3b"\n', "model 1: name: name is required"),
        ('[[model]]\nname = "Mine!"\nlike = "x"\n', "model 1 (Mine!): name: name must be at most 64 of a-z"),
        (HEAD.replace("wan-2.1-t2v-1.3b", "camera-move"), "model 1 (mine): like: there is no diffusion model"),
        (HEAD.replace('"mine"', '"mochi-1"'), "model 1 (mochi-1): name: another model has this name"),
        (HEAD.replace('"mine"', '"loras"'), "model 1 (loras): name: a folder beside the models has this name"),
        (HEAD + HEAD, "model 2 (mine): name: another model has this name"),
        (HEAD + "colour = 3\n", "model 1 (mine): colour: there is no such field"),
        (HEAD + 'repo = "a/b"\npath = "c"\n', "model 1 (mine): path: say repo or path, and not both"),
        (HEAD + 'repo = "nothing"\n', "model 1 (mine): repo: repo must be owner/name"),
        (HEAD + f'revision = "{"a" * 40}"\n', "model 1 (mine): revision: a revision needs its repo"),
        (HEAD + 'repo = "a/b"\nrevision = "main"\n', "model 1 (mine): revision: revision must be a commit"),
        (HEAD + "steps = { default = 1 }\n", "model 1 (mine): steps.default: default must be at least 2"),
        (HEAD + "steps = { most = 10 }\n", "model 1 (mine): steps.default: steps go from 2 to 10"),
        (HEAD + "frames = { default = 10 }\n", "model 1 (mine): frames.default: counts are 4 x n + 1"),
        (HEAD + "frames = { default = 125 }\n", "model 1 (mine): frames.default: frames go from 5 to 121"),
        (HEAD + "size = { multiple = 48 }\n", "model 1 (mine): size.multiple: the least and the most, 256 and 1280"),
        (HEAD + "size = { least = 1296 }\n", "model 1 (mine): size.least: it is more than the most, 1280"),
        (HEAD + 'size = { default = "100x100" }\n', "model 1 (mine): size.default: sides are multiples of 16"),
        (HEAD + 'size = { default = "1280x1280" }\n', "model 1 (mine): size.default: it has more than 921600 pixels"),
        (HEAD + 'size = { default = "wide" }\n', "model 1 (mine): size.default: write the size as WIDTHxHEIGHT"),
        (HEAD + "guidance = [1.0, 2.0]\n", "model 1 (mine): guidance: this model has 1"),
        (HEAD.replace("wan-2.1-t2v-1.3b", "mochi-1") + "shift = 2.0\n", "model 1 (mine): shift: the scheduler"),
        (HEAD + 'dtype = "int4"\n', "model 1 (mine): dtype: dtype must be bfloat16, float16 or float32"),
        (HEAD + "call = { prompt = 'x' }\n", "model 1 (mine): call.prompt: the service gives this one itself"),
        (HEAD + "call = { generator = 1 }\n", "model 1 (mine): call.generator: the service gives"),
        (HEAD + "call = { guidance_scale = 1 }\n", "model 1 (mine): call.guidance_scale: the service gives"),
        (HEAD + "call = { video = 'x' }\n", "model 1 (mine): call.video: the service gives"),
        (HEAD + "call = { strength = 1 }\n", "model 1 (mine): call.strength: the service gives"),
        (HEAD + "call = { a = [{ b = nan }] }\n", "model 1 (mine): call.a: it must be text, a number, true or false"),
        (HEAD + "call = { a = 1979-05-27 }\n", "model 1 (mine): call.a: it must be text"),
        (HEAD + "call = { sigmas = [1.0, 0.5] }\n", "model 1 (mine): call.sigmas: it must be a list, and steps.least"),
        (
            ANIMATED + "call = { segment_frame_length = 1 }\n",
            "call.segment_frame_length: it must be 4 x n + 1, and more",
        ),
        (ANIMATED + "call = { segment_frame_length = 78 }\n", "call.segment_frame_length: it must be 4 x n + 1"),
        (ANIMATED + "call = { segment_frame_length = '77' }\n", "call.segment_frame_length: it must be a whole number"),
        (ANIMATED + "call = { segment_frame_length = true }\n", "call.segment_frame_length: it must be a whole number"),
        (ANIMATED + "call = { segment_frame_length = 0 }\n", "call.segment_frame_length: it must be a whole number"),
        (
            ANIMATED + "call = { prev_segment_conditioning_frames = 77 }\n",
            "call.segment_frame_length: it must be 4 x n + 1, and more than the 77 that two segments share",
        ),
        (
            ANIMATED + "call = { prev_segment_conditioning_frames = [1] }\n",
            "call.prev_segment_conditioning_frames: it must be a whole number",
        ),
        (NOISY + "call = { decode_timestep = [0.05] }\n", "call.decode_timestep: it must be a number from 0 to 1"),
        (NOISY + "call = { decode_timestep = 50 }\n", "call.decode_timestep: it must be a number from 0 to 1"),
        (NOISY + "call = { decode_timestep = false }\n", "call.decode_timestep: it must be a number from 0 to 1"),
        (HEAD + "latents = { spatial = 512 }\n", "latents.spatial: it is more than a side that can be asked for, 256"),
        (
            HEAD.replace("wan-2.1-t2v-1.3b", "hunyuan-video-1.5-480p-i2v") + "latents = { spatial = 4096 }\n",
            "latents.spatial: it is more than a side that can be asked for",
        ),
        (
            HEAD.replace("wan-2.1-t2v-1.3b", "hunyuan-video-1.5-480p-i2v") + "size = { base = 1 }\n",
            "size.base: it leaves no size",
        ),
        (HEAD + "call = 3\n", "model 1 (mine): call: call must be"),
        (HEAD + "upscaler = true\npath = 'x'\n", "model 1 (mine): upscaler: it goes with a path, and with a model"),
        (HEAD + "fps = 0\n", "model 1 (mine): fps: frames a second go from 1 to 60"),
        ("model = 3\n", "holds [[model]] tables"),
        ("[[models]]\n", "holds [[model]] tables"),
        ("model = [3]\n", "model 1: entry: entry must be"),
        ("[[model\n", "is not TOML"),
    ],
)
def test_what_is_wrong_is_said_with_the_file_the_entry_and_the_key(wrote: Wrote, text: str, said: str) -> None:
    file = wrote(text)
    with pytest.raises(SettingsError) as caught:
        load(file, KNOWN)
    assert caught.value.detail.startswith("FRAMEWRIGHT_CATALOGUE: ")
    assert str(file) in caught.value.detail
    assert said in caught.value.detail


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"FRAMEWRIGHT_CATALOGUE: .*nothing\.toml cannot be read"):
        load(tmp_path / "nothing.toml", KNOWN)
