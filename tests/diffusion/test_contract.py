"""What the rows say of diffusers is so in the diffusers that is installed: an upgrade that changes it fails here."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from types import SimpleNamespace, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest

from framewright import catalogue
from framewright.catalogue.diffusion import Diffusion, Slots
from framewright.catalogue.ltx2 import DISTILLED
from framewright.catalogue.row import Buckets, ModelRow

diffusers: Any = pytest.importorskip("diffusers")
torch: Any = pytest.importorskip("torch")

from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES  # noqa: E402

from workers.diffusion.caching import cached  # noqa: E402

ROWS = [row for row in catalogue.rows() if row.diffusion is not None]
PIPELINES = [(row, task) for row in ROWS for task in (row.diffusion.pipelines if row.diffusion else ())]
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
every_pipeline = pytest.mark.parametrize(
    ("row", "task"), PIPELINES, ids=[f"{row.name}-{task}" for row, task in PIPELINES]
)
CACHED = [row for row in ROWS if row.diffusion and row.diffusion.caches]
STEPPED = re.compile(r"(\w*scheduler)\.step\(")


def facts_of(row: ModelRow) -> Diffusion:
    assert row.diffusion is not None
    return row.diffusion


def kind_of(name: str) -> Any:
    kind = getattr(diffusers, name)
    # Of a class whose backend is missing, diffusers gives a stand-in that only complains.
    assert "_backends" not in vars(kind), f"{name} is a stand-in"
    return kind


def pipeline(row: ModelRow, task: str) -> Any:
    return kind_of(facts_of(row).pipelines[task])  # type: ignore[index]


def arguments(kind: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(kind.__call__).parameters


def components(kind: Any) -> set[str]:
    """Names of all that the pipeline is made of, its options left out."""
    return set(kind._get_signature_keys(kind)[0])


def classes(kind: Any, component: str) -> list[Any]:
    """The classes that a component may have."""
    hint = get_type_hints(kind.__init__)[component]
    several = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return [one for one in several if one is not type(None)]


def denoiser(kind: Any) -> list[Any]:
    return classes(kind, "unet" if "unet" in inspect.signature(kind.__init__).parameters else "transformer")


def networks(kind: Any) -> dict[str, list[Any]]:
    """Components that hold weights, with the classes that each may have."""
    found = {name: classes(kind, name) for name in components(kind) if name in get_type_hints(kind.__init__)}
    return {
        name: kinds
        for name, kinds in found.items()
        if any(isinstance(one, type) and issubclass(one, torch.nn.Module) for one in kinds)
    }


def shallow(kind: Any) -> Any:
    """A denoiser of two blocks without numbers in it."""
    with torch.device("meta"):
        return kind(num_layers=2)


def hooks(module: Any) -> bool:
    """Whether diffusers has put something between the module and those who call it."""
    registry = getattr(module, "_diffusers_hook", None)
    return bool(registry and registry.hooks)


@every_pipeline
def test_the_pipeline_takes_every_argument_that_we_pass(row: ModelRow, task: str) -> None:
    facts = facts_of(row)
    ways: tuple[Slots, ...] = facts.slots[task]  # type: ignore[index]
    passed = {"num_inference_steps", "generator", "latents", "output_type", "return_dict"}
    passed |= {argument for way in ways for argument in way.arguments().values()} | facts.call.keys()
    passed |= {knob.argument for knob in facts.knobs}
    passed |= {rule.argument for rule in facts.guidance if rule.argument != "guider"}
    passed |= {"prompt"} if facts.prompt else set()
    passed |= {"negative_prompt"} if facts.negative is not None else set()
    passed |= {"max_sequence_length"} if facts.max_tokens is not None else set()
    if task == "v2v":
        assert facts.strength is not None
        passed.add(facts.strength.argument)
    taken = arguments(pipeline(row, task))
    assert passed <= taken.keys()
    # Nothing else is needed: no callback, and no tensors.
    needed = {name for name, one in taken.items() if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD}
    assert needed - {"self"} <= passed


@every_pipeline
def test_a_model_that_takes_no_prompt_or_no_size_is_one(row: ModelRow, task: str) -> None:
    taken = arguments(pipeline(row, task))
    assert ("prompt" in taken) == facts_of(row).prompt
    assert ({"height", "width"} <= taken.keys()) == (row.size.buckets is None)
    assert ("num_frames" in taken) == (task not in {"v2v", "character"} or facts_of(row).family == "ltx")


@every_pipeline
def test_the_weights_of_one_task_serve_the_others(row: ModelRow, task: str) -> None:
    kind, first = pipeline(row, task), pipeline(row, facts_of(row).load_as)
    shared = components(kind) & components(first)
    assert components(kind) - set(kind._optional_components) <= shared
    for name, kinds in networks(kind).items():
        assert name not in shared or {*kinds} & {*classes(first, name)}, f"{name} is of another class"
    # Options of the second that the first is made with as well have the same meaning there.
    options, others = kind._get_signature_keys(kind)[1], first._get_signature_keys(first)[1]
    assert set(options) <= set(others)


@every_pipeline
def test_as_many_schedulers_are_stepped_as_the_row_says(row: ModelRow, task: str) -> None:
    stepped = set(STEPPED.findall(inspect.getsource(pipeline(row, task).__call__)))
    assert "scheduler" in stepped
    assert len(stepped) == facts_of(row).schedulers


@every_pipeline
def test_guidance_without_an_argument_has_a_guider(row: ModelRow, task: str) -> None:
    kind = pipeline(row, task)
    by_guider = any(rule.argument == "guider" for rule in facts_of(row).guidance)
    assert ("guider" in components(kind)) == by_guider
    if by_guider:
        for guider in classes(kind, "guider"):
            assert "guidance_scale" in inspect.signature(guider.__init__).parameters
            assert callable(guider.new)


@every_pipeline
def test_loras_are_loaded_by_the_mixin_of_the_row(row: ModelRow, task: str) -> None:
    mixins = {kind.__name__: kind for kind in pipeline(row, task).__mro__ if kind.__name__.endswith("LoraLoaderMixin")}
    lora = facts_of(row).lora
    assert set(mixins) == ({lora.mixin} if lora else set())
    if lora is not None:
        source = inspect.getsource(mixins[lora.mixin].load_lora_weights)
        assert not lora.second or "load_into_transformer_2" in source
        assert callable(pipeline(row, task).set_adapters)


@every_row
def test_the_scheduler_knows_what_is_changed_in_it(row: ModelRow) -> None:
    scheduler = facts_of(row).scheduler
    known = inspect.signature(kind_of(scheduler.kind).__init__).parameters
    changed = {*scheduler.overrides, *([scheduler.shift] if scheduler.shift else [])}
    assert changed <= known.keys()
    assert callable(kind_of(scheduler.kind).step)
    if scheduler.shift:
        assert scheduler.shifts


@every_row
def test_noise_levels_of_a_distilled_model_are_as_many_as_its_steps(row: ModelRow) -> None:
    facts = facts_of(row)
    levels = facts.call.get("timesteps", facts.call.get("sigmas"))
    assert (levels is not None) == (facts.steps.least == facts.steps.most)
    if levels is not None:
        assert len(levels) == facts.steps.default
        assert sorted(levels, reverse=True) == list(levels)


def test_the_noise_levels_of_ltx_2_are_those_of_its_makers() -> None:
    from diffusers.pipelines.ltx2.utils import DISTILLED_SIGMA_VALUES

    assert list(DISTILLED) == DISTILLED_SIGMA_VALUES


@every_row
def test_parts_with_a_precision_of_their_own_are_parts_of_it(row: ModelRow) -> None:
    facts = facts_of(row)
    known = inspect.signature(pipeline(row, facts.load_as).__init__).parameters
    assert facts.dtypes.keys() - {"default"} <= known.keys()


@every_row
def test_sides_are_whole_patches_of_latents(row: ModelRow) -> None:
    facts = facts_of(row)
    for kind in denoiser(pipeline(row, facts.load_as)):
        known = inspect.signature(kind.__init__).parameters
        size = known["patch_size"].default if "patch_size" in known else 1
        patch = size[-1] if isinstance(size, tuple) else size
        assert row.size.multiple % (facts.latents.spatial * patch) == 0


@every_row
def test_the_vae_has_tiles_where_the_row_says_so(row: ModelRow) -> None:
    facts = facts_of(row)
    for vae in classes(pipeline(row, facts.load_as), "vae"):
        assert ("use_tiling" in inspect.getsource(vae.__init__)) == facts.tiling


@pytest.mark.parametrize("row", CACHED, ids=lambda row: row.name)
def test_caches_take_hold_of_the_blocks_of_the_denoiser_and_let_go(row: ModelRow) -> None:
    facts = facts_of(row)
    pipe = SimpleNamespace(transformer=shallow(denoiser(pipeline(row, facts.load_as))[0]), current_timestep=500)
    for name in facts.caches:
        with cached(pipe, name):
            held = [part for part, module in pipe.transformer.named_modules() if hooks(module)]
            assert any("blocks.0" in part for part in held), name
            assert any("blocks.1" in part for part in held), name
        assert not any(map(hooks, pipe.transformer.modules()))


@every_row
def test_profiles_ask_for_what_the_denoiser_can_do(row: ModelRow) -> None:
    facts = facts_of(row)
    kind = pipeline(row, facts.load_as)
    held = networks(kind)
    for profile in facts.profiles:
        if profile.offload == "model":
            # What is not in its chain stays on the GPU beside the denoiser, once it was called.
            large = [name for name in ("text_encoder", "transformer", "transformer_2", "unet", "vae") if name in held]
            assert [name for name in kind.model_cpu_offload_seq.split("->") if name in large] == large
        if profile.offload in {"group", "leaf"}:
            taken = inspect.signature(kind.enable_group_offload).parameters
            assert {"onload_device", "offload_type", "num_blocks_per_group", "use_stream"} <= taken.keys()
            every = [one for kinds in held.values() for one in kinds]
            assert all(getattr(one, "_supports_group_offloading", True) for one in every)
        if profile.offload == "group":
            assert any(isinstance(child, torch.nn.ModuleList) for child in shallow(denoiser(kind)[0]).children())
        if profile.fp8:
            # Layers whose numbers 8 bits cannot hold are left as they are.
            assert all("norm" in (one._skip_layerwise_casting_patterns or ()) for one in denoiser(kind))


@every_row
def test_weights_in_one_file_can_be_read_from_one(row: ModelRow) -> None:
    facts = facts_of(row)
    kind = pipeline(row, facts.load_as)
    if facts.repo.single is not None:
        for part in (*denoiser(kind), *classes(kind, "vae")):
            assert part.__name__ in SINGLE_FILE_LOADABLE_CLASSES
    if facts.base is not None and facts.repo.single is None:
        assert kind_of("MotionAdapter") in classes(kind, "motion_adapter")


@every_row
def test_what_is_not_pulled_is_no_part_of_a_pipeline(row: ModelRow) -> None:
    facts = facts_of(row)
    read = {name for task in facts.pipelines for name in components(pipeline(row, task))}
    for repo in filter(None, (facts.repo, facts.base)):
        left = {pattern.partition("/")[0] for pattern in repo.without if "/" in pattern}
        assert left & read == ({"transformer", "vae"} if facts.repo.single and repo is facts.base else set())


@pytest.mark.parametrize("row", [row for row in ROWS if facts_of(row).upscale], ids=lambda row: row.name)
def test_the_second_stage_takes_latents_over_the_same_vae(row: ModelRow) -> None:
    upscale = facts_of(row).upscale
    assert upscale is not None
    kind, first = kind_of(upscale.pipeline), pipeline(row, facts_of(row).load_as)
    assert components(kind) - components(first) == {"latent_upsampler"}
    assert classes(kind, "vae") == classes(first, "vae")
    assert {"latents", "height", "width", "generator", "output_type"} <= arguments(kind).keys()
    assert {"latents", "denoise_strength"} <= arguments(first).keys()


@pytest.mark.parametrize("base", [640, 960, 256])
def test_the_list_of_sizes_is_that_of_the_pipeline(base: int) -> None:
    from diffusers.pipelines.hunyuan_video1_5.image_processor import (
        HunyuanVideo15ImageProcessor,
        generate_crop_size_list,
    )

    buckets = Buckets(base)
    assert buckets.every() == tuple((wide, tall) for tall, wide in generate_crop_size_list(base, 16))
    processor = HunyuanVideo15ImageProcessor(vae_scale_factor=16)
    for wide in range(100, 4000, 371):
        for tall in range(100, 4000, 253):
            if max(wide, tall) <= 4 * min(wide, tall):
                height, width = processor.calculate_default_height_width(tall, wide, base)
                assert buckets.taken(wide, tall) == (width, height)
            # A picture in the size that the row promises comes out in that size.
            width, height = buckets.nearest(wide, tall)
            assert processor.calculate_default_height_width(height, width, base) == (height, width)


@every_pipeline
def test_a_sound_that_is_given_can_be_held(row: ModelRow, task: str) -> None:
    facts = facts_of(row)
    kind, ways = pipeline(row, task), facts.slots[task]  # type: ignore[index]
    assert all(("audio" in way.arguments()) == (facts.audio_window is not None) for way in ways)
    if facts.audio_window is None:
        return
    # The argument that a sound becomes, the one that keeps noise from it, and those that say that it has none.
    assert {way.arguments()["audio"] for way in ways} == {"audio_latents"}
    assert "noise_scale" in inspect.signature(kind.prepare_audio_latents).parameters
    for one in denoiser(kind):
        assert {"sigma", "audio_timestep", "audio_sigma"} <= inspect.signature(one.forward).parameters.keys()
    for vae in classes(kind, "audio_vae"):
        assert {"sample_rate", "mel_hop_length", "mel_bins"} <= inspect.signature(vae.__init__).parameters.keys()


def test_ltx_conditions_are_made_of_what_we_give() -> None:
    from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
    from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition

    assert {"image", "video", "frame_index", "strength"} <= inspect.signature(LTXVideoCondition).parameters.keys()
    assert {"frames", "index", "strength"} <= inspect.signature(LTX2VideoCondition).parameters.keys()
