"""An operator's own models: rows like existing ones, with other weights and limits, from a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError

from framewright.catalogue.arguments import Wrong, called
from framewright.catalogue.diffusion import Diffusion, Guidance, Profile, Repo
from framewright.catalogue.offering import offer
from framewright.catalogue.row import Buckets, FrameRule, Licence, ModelRow, SizeRule
from framewright.errors import SettingsError
from framewright.params import RateBetween, Size, Strict, parse_size, pointer
from framewright.wording import form, worded

NAME: Final = form(r"^[a-z0-9][a-z0-9.-]{0,63}$", "at most 64 of a-z, 0-9, . and -")
COMMIT: Final = form(r"^[0-9a-f]{40}$", "a commit of 40 hex digits")
REPOSITORY: Final = form(r"^[\w.-]+/[\w.-]+$", "owner/name")
RESERVED: Final = frozenset({"loras"})
"""Folders beside those of models: LoRAs that workers have lie in one of that name."""
_MOST: Final = 1_000
_Whole = Annotated[int, Field(ge=1, le=100_000)]
_Text = Annotated[str, Field(min_length=1, max_length=1000)]


class _Terms(Strict):
    name: _Text
    url: _Text | None = None
    commercial: bool = True
    note: _Text | None = None
    accept: bool = False


class _Sizes(Strict):
    multiple: _Whole | None = None
    least: _Whole | None = None
    most: _Whole | None = None
    default: Size | None = None
    max_area: Annotated[int, Field(ge=1)] | None = None
    base: _Whole | None = None


class _Frames(Strict):
    stride: _Whole | None = None
    offset: Annotated[int, Field(ge=0, le=1000)] | None = None
    least: _Whole | None = None
    most: _Whole | None = None
    default: _Whole | None = None


class _Steps(Strict):
    default: Annotated[int, Field(ge=2, le=1000)] | None = None
    least: Annotated[int, Field(ge=2, le=1000)] | None = None
    most: Annotated[int, Field(ge=2, le=1000)] | None = None


class _Latents(Strict):
    channels: _Whole | None = None
    spatial: _Whole | None = None
    temporal: _Whole | None = None


class _Own(Strict):
    """One `[[model]]` of the file; what it does not say is as in the row that it is like."""

    name: Annotated[str, Field(pattern=NAME)]
    like: Annotated[str, Field(max_length=64)]
    title: _Text | None = None
    summary: _Text | None = None
    repo: Annotated[str, Field(pattern=REPOSITORY)] | None = None
    revision: Annotated[str, Field(pattern=COMMIT)] | None = None
    path: _Text | None = None
    licence: _Terms | None = None
    size: _Sizes = _Sizes()
    frames: _Frames = _Frames()
    fps: Annotated[str, RateBetween(1, 60)] | None = None
    steps: _Steps = _Steps()
    guidance: Annotated[list[Annotated[float, Field(ge=0, le=100)]], Field(min_length=1, max_length=2)] | None = None
    shift: Annotated[float, Field(gt=0, le=100)] | None = None
    dtype: (
        Annotated[str, Field(pattern=form(r"^(bfloat16|float16|float32)$", "bfloat16, float16 or float32"))] | None
    ) = None
    max_tokens: _Whole | None = None
    call: dict[str, Any] = Field(default_factory=dict, max_length=100)
    latents: _Latents = _Latents()
    vram_mb: Annotated[int, Field(ge=0)] | None = None
    upscaler: bool = False


def load(file: Path | None, known: tuple[ModelRow, ...]) -> tuple[ModelRow, ...]:
    """The rows of `file`, each like one of `known`; none without a file.

    Raises `SettingsError` that names the file, the entry and the key.
    """
    if file is None:
        return ()
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"FRAMEWRIGHT_CATALOGUE: {file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"FRAMEWRIGHT_CATALOGUE: {file} is not TOML: {error}") from None
    entries = told.get("model", [])
    if told.keys() - {"model"} or not isinstance(entries, list) or len(entries) > _MOST:
        raise SettingsError(f"FRAMEWRIGHT_CATALOGUE: {file} holds [[model]] tables, at most {_MOST}, and nothing else")
    rows: list[ModelRow] = []
    for number, entry in enumerate(entries, start=1):
        name = entry.get("name") if isinstance(entry, dict) else None
        where = f"FRAMEWRIGHT_CATALOGUE: {file}: model {number}" + (f" ({name})" if isinstance(name, str) else "")
        try:
            rows.append(_row(entry, (*known, *rows), file.parent))
        except Wrong as wrong:
            raise SettingsError(f"{where}: {wrong.key}: {wrong.sentence}") from None
    return tuple(rows)


def _row(entry: Any, known: tuple[ModelRow, ...], beside: Path) -> ModelRow:
    try:
        own = _Own.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        _, sentence = worded(first["loc"] or ("entry",), first["type"], first.get("ctx", {}), first["msg"])
        raise Wrong(pointer(*first["loc"])[1:].replace("/", ".") or "entry", sentence) from None
    if own.name in RESERVED:
        raise Wrong("name", "a folder beside the models has this name")
    if any(row.name == own.name for row in known):
        raise Wrong("name", "another model has this name")
    like = next((row for row in known if row.name == own.like), None)
    if like is None or like.diffusion is None:
        raise Wrong("like", "there is no diffusion model of this name")
    made = offer(
        own.name,
        own.title or f"{like.title} ({own.name})",
        own.summary or like.summary,
        facts=_facts(own, like.diffusion, beside),
        licence=Licence(**own.licence.model_dump()) if own.licence else like.licence,
        size=_size(own.size, like.size),
        frames=_frames(own.frames, like.frames),
        typical_mpix_s=like.speed.typical_mpix_s,
    )
    if made.diffusion and (side := min(map(min, _sizes(made.size)))) < made.diffusion.latents.spatial:
        raise Wrong("latents.spatial", f"it is more than a side that can be asked for, {side}")
    return replace(made, presets=tuple(preset for preset in like.presets if _fits(made, preset.params)))


def _fits(row: ModelRow, params: Any) -> bool:
    """Whether a preset of the row that this one is like still is one."""
    needed = {"prompt": "a"} if row.diffusion and row.diffusion.prompt else {}
    try:
        row.params.model_validate({**needed, **params})
    except ValidationError:
        return False
    size = params.get("size")
    return size is None or all(row.size.least <= side <= row.size.most for side in parse_size(size))


def _facts(own: _Own, like: Diffusion, beside: Path) -> Diffusion:
    facts = replace(
        like, steps=replace(like.steps, **_given(own.steps)), latents=replace(like.latents, **_given(own.latents))
    )
    if not facts.steps.least <= facts.steps.default <= facts.steps.most:
        raise Wrong("steps.default", f"steps go from {facts.steps.least} to {facts.steps.most}")
    if own.guidance is not None:
        facts = replace(facts, guidance=_guided(own.guidance, facts.guidance))
    if own.shift is not None:
        if facts.scheduler.shift is None:
            raise Wrong("shift", "the scheduler of this model has none")
        facts = replace(facts, scheduler=replace(facts.scheduler, shifts=((0, own.shift),)))
    if own.vram_mb is not None:
        facts = replace(facts, profiles=(Profile(name="whole", vram_mb=own.vram_mb),))
    return replace(
        facts,
        **_weights(own, like, beside),
        fps=Fraction(own.fps) if own.fps else facts.fps,
        dtypes=_precise(own.dtype, facts.dtypes) if own.dtype else facts.dtypes,
        max_tokens=own.max_tokens or facts.max_tokens,
        call=called(own.call, facts),
    )


def _weights(own: _Own, like: Diffusion, beside: Path) -> dict[str, Any]:
    """Where they are, when not where those of the other row are. A fine-tune is a whole pipeline, not a part of one."""
    if own.repo is not None and own.path is not None:
        raise Wrong("path", "say repo or path, and not both")
    if own.revision is not None and own.repo is None:
        raise Wrong("revision", "a revision needs its repo")
    if own.upscaler and (own.path is None or like.upscale is None):
        raise Wrong("upscaler", "it goes with a path, and with a model that has a second stage")
    if own.repo is not None:
        return {"repo": Repo(id=own.repo, revision=own.revision), "base": None, "folder": None}
    if own.path is not None:
        folder = beside / Path(own.path).expanduser()
        return {"folder": folder, "base": None, "upscale": like.upscale if own.upscaler else None}
    return {}


def _precise(dtype: str, like: Mapping[str, str]) -> Mapping[str, str]:
    """The precision of all parts but those that the row keeps in 32 bits: these lose too much with less."""
    return MappingProxyType({**{part: kind for part, kind in like.items() if kind == "float32"}, "default": dtype})


def _guided(values: list[float], like: tuple[Guidance, ...]) -> tuple[Guidance, ...]:
    if len(values) > len(like):
        raise Wrong("guidance", f"this model has {len(like) or 'none'}")
    changed = [
        replace(rule, default=value, least=min(rule.least, value), most=max(rule.most, value))
        for rule, value in zip(like, values, strict=False)
    ]
    return (*changed, *like[len(changed) :])


def _given(own: Strict) -> dict[str, Any]:
    return {name: value for name, value in own.model_dump().items() if value is not None}


def _size(own: _Sizes, like: SizeRule) -> SizeRule:
    said = {name: value for name, value in _given(own).items() if name != "base"}
    if own.default is not None:
        said["default"] = parse_size(own.default)
    if said:
        # Other limits than those a list of sizes was made for.
        said = {"only": (), "max_area": None if own.most else like.max_area, **said}
    rule = replace(like, **said)
    if own.base is not None:
        rule = replace(rule, buckets=Buckets(own.base, rule.multiple))
        if not _sizes(rule):
            raise Wrong("size.base", f"it leaves no size of whole patches of {rule.multiple} pixels")
    if rule.least > rule.most:
        raise Wrong("size.least", f"it is more than the most, {rule.most}")
    if rule.least % rule.multiple or rule.most % rule.multiple:
        raise Wrong("size.multiple", f"the least and the most, {rule.least} and {rule.most}, must be multiples of it")
    if rule.buckets is None and rule.default is None:
        raise Wrong("size.default", "it is required")
    usual = rule.default or (rule.most, rule.most)
    if any(side % rule.multiple or not rule.least <= side <= rule.most for side in usual):
        raise Wrong("size.default", f"sides are multiples of {rule.multiple}, {rule.least} to {rule.most}")
    if rule.max_area is not None and usual[0] * usual[1] > rule.max_area:
        raise Wrong("size.default", f"it has more than {rule.max_area} pixels")
    return rule


def _sizes(rule: SizeRule) -> tuple[tuple[int, int], ...]:
    """All sizes of a list, or the least one."""
    return rule.buckets.every() if rule.buckets else rule.only or ((rule.least, rule.least),)


def _frames(own: _Frames, like: FrameRule) -> FrameRule:
    rule = replace(like, **_given(own))
    if own.stride is not None or own.offset is not None:
        rule = replace(rule, least=own.least or rule.stride + rule.offset)
    for key, count in (("least", rule.least), ("most", rule.most), ("default", rule.default or rule.least)):
        if (count - rule.offset) % rule.stride:
            raise Wrong(f"frames.{key}", f"counts are {rule.stride} x n + {rule.offset}")
    if not rule.least <= (rule.default or rule.least) <= rule.most:
        raise Wrong("frames.default", f"frames go from {rule.least} to {rule.most}")
    return rule
