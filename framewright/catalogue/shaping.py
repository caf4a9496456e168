"""From what was asked to what a model really makes: size and frames by the row's rules, every change told. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor
from typing import Any

from framewright.catalogue.row import ModelRow
from framewright.params import decimal, parse_size, ratio_text

Pixels = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Adjusted:
    """One value that is not as asked: `field` is a JSON pointer into the request, `why` a sentence."""

    field: str
    asked: Any
    used: Any
    why: str

    def below(self, at: str) -> Adjusted:
        return replace(self, field=at + self.field)

    def as_json(self) -> dict[str, Any]:
        return {"field": self.field, "asked": self.asked, "used": self.used, "why": self.why}


@dataclass(frozen=True, slots=True)
class Shaped:
    """Params as stored (`size`, `fps` and `frames` are final) and the work in pixels x frames."""

    params: dict[str, Any]
    adjusted: tuple[Adjusted, ...]
    work: int


@dataclass(frozen=True, slots=True)
class Footage:
    """The video that a clip is made from: the slot it was given in, its frames and frames a second where known."""

    slot: str
    frames: int | None
    fps: str | None


class Refused(Exception):
    """What was asked cannot be made; `pointer` is relative to the step."""

    def __init__(self, pointer: str, code: str, detail: str) -> None:
        super().__init__(detail)
        self.pointer, self.code, self.detail = pointer, code, detail


def shape(
    row: ModelRow, params: Mapping[str, Any], pictures: Sequence[Pixels], footage: Footage | None = None
) -> Shaped:
    """Final params of one step by the row's rules; `pictures` are the sizes of its inputs, in order."""
    out = dict(params)
    told: list[Adjusted] = []
    asked = {f"/params/{name}" for name in ("frames", "seconds", "size") if out.get(name) is not None}
    for name, why in row.not_yet.items():
        if out.pop(name, None) is not None:
            told.append(Adjusted(f"/params/{name}", params[name], None, why))
    _steps(row, out, told)
    _strength(row, out)
    width, height = _size(row, out, pictures, told)
    frames = _frames(row, out, pictures, told, footage)
    work = width * height * frames
    if work > row.max_pixel_frames:
        where = {"seconds": "/params/seconds", "images": "/input/images", "params": "/params/frames"}
        most = f"{row.max_pixel_frames / 1e9:g}"
        raise Refused(
            where[row.frames.source] if row.diffusion is None else max(asked, default="/params/size"),
            "too_much_work",
            f"width x height x frames is more than the {most} gigapixels that {row.name} makes in one job; "
            "ask for fewer frames or a smaller size",
        )
    out |= {"size": f"{width}x{height}", "frames": frames}
    return Shaped({name: value for name, value in out.items() if value is not None}, tuple(told), work)


def _steps(row: ModelRow, out: dict[str, Any], told: list[Adjusted]) -> None:
    if row.diffusion is None:
        return
    asked, used = out["steps"], row.diffusion.steps.nearest(out["steps"])
    if used != asked:
        why = "the model's strides are rounded, and noise would remain; the nearest count without is used"
        told.append(Adjusted("/params/steps", asked, used, why))
        out["steps"] = used


def _strength(row: ModelRow, out: Mapping[str, Any]) -> None:
    """Refuses a strength at which nothing would be denoised."""
    rule = row.diffusion.strength if row.diffusion else None
    if rule is None or out.get("task") != "v2v" or rule.steps(out["steps"], out["strength"]):
        return
    detail = f"at {out['steps']} steps the least strength that changes anything is {rule.least(out['steps']):g}"
    raise Refused("/params/strength", "out_of_range", detail)


def _size(row: ModelRow, out: dict[str, Any], pictures: Sequence[Pixels], told: list[Adjusted]) -> Pixels:
    asked = out.get("size")
    if asked is not None:
        return _asked_size(row, out, parse_size(asked), pictures, told)
    if row.size.source == "model":
        return _usual_size(row, pictures, told)
    if not pictures:
        raise Refused("/params/size", "missing", "say the size, because no picture tells it")
    if row.size.source == "images":
        return _size_of_images(row, out, pictures, told)
    return _size_of_picture(row, pictures[0], told)


def _asked_size(
    row: ModelRow, out: dict[str, Any], asked: Pixels, pictures: Sequence[Pixels], told: list[Adjusted]
) -> Pixels:
    rule = row.size
    if rule.only and asked not in rule.only:
        raise Refused("/params/size", "out_of_range", f"{row.name} makes only {', '.join(map(_text, rule.only))}")
    if not all(rule.least <= side <= rule.most for side in asked):
        raise Refused("/params/size", "out_of_range", f"sides of {row.name} go from {rule.least} to {rule.most} pixels")
    used = (rule.up(asked[0]), rule.up(asked[1]))
    why = f"sides must be multiples of {rule.multiple}; the next larger size is used"
    if rule.buckets is not None:
        used = rule.buckets.nearest(*asked)
        why = "the model has a list of sizes of one area; the nearest in shape is used"
    if rule.max_area is not None and used[0] * used[1] > rule.max_area:
        raise Refused(
            "/params/size",
            "out_of_range",
            f"frames of {row.name} have at most {rule.max_area} pixels, and {_text(used)} has {used[0] * used[1]}",
        )
    if used != asked:
        told.append(Adjusted("/params/size", _text(asked), _text(used), why))
    if rule.source == "images" and out.get("fit") is None:
        if any(picture not in (asked, used) for picture in pictures):
            index = next(i for i, picture in enumerate(pictures) if picture not in (asked, used))
            raise Refused(
                f"/input/images/{index}",
                "size_mismatch",
                "this image has another size than the clip; say with params.fit how it goes in",
            )
        out["fit"] = "pad"
    return used


def _usual_size(row: ModelRow, pictures: Sequence[Pixels], told: list[Adjusted]) -> Pixels:
    """The model's own size; with a picture, its area in the shape of the picture."""
    rule = row.size
    if not pictures:
        return rule.shaped(*(rule.default or (16, 9)))
    used = rule.shaped(*pictures[0])
    if used != pictures[0]:
        why = (
            f"{row.name} makes only this size"
            if rule.only
            else "without params.size the clip has the shape of what was given, and the area that the model is used to"
        )
        told.append(Adjusted("/params/size", _text(pictures[0]), _text(used), why))
    return used


def _size_of_images(row: ModelRow, out: dict[str, Any], pictures: Sequence[Pixels], told: list[Adjusted]) -> Pixels:
    rule, first = row.size, pictures[0]
    if out.get("fit") is None:
        for index, picture in enumerate(pictures):
            if picture != first:
                raise Refused(
                    f"/input/images/{index}",
                    "size_mismatch",
                    "this image has another size than the first; say with params.fit how it goes in",
                )
        out["fit"] = "pad"
    used = (rule.up(first[0]), rule.up(first[1]))
    if not all(rule.least <= side <= rule.most for side in used):
        raise Refused(
            "/input/images/0",
            "out_of_range",
            f"sides of {row.name} go from {rule.least} to {rule.most} pixels; say params.size and params.fit",
        )
    if used != first:
        how = {"pad": "padded", "crop": "scaled and cropped", "stretch": "scaled"}[out["fit"]]
        why = f"video needs sides that are multiples of {rule.multiple}; the images are {how} to the next larger size"
        told.append(Adjusted("/params/size", _text(first), _text(used), why))
    return used


def _size_of_picture(row: ModelRow, picture: Pixels, told: list[Adjusted]) -> Pixels:
    """The picture's own shape, no larger than the rule's long edge."""
    rule = row.size
    scale = Fraction(1)
    if rule.long_edge is not None and max(picture) > rule.long_edge:
        scale = Fraction(rule.long_edge, max(picture))
    wanted = (picture[0] * scale, picture[1] * scale)
    used = (rule.nearest(wanted[0]), rule.nearest(wanted[1]))
    if used != picture:
        reasons = []
        if scale != 1:
            reasons.append(f"without params.size the long edge is at most {rule.long_edge} pixels")
        if min(wanted) < rule.least:
            reasons.append(f"no side may be shorter than {rule.least} pixels")
        reasons.append(f"sides are multiples of {rule.multiple}")
        told.append(Adjusted("/params/size", _text(picture), _text(used), "; ".join(reasons)))
    return used


def _frames(
    row: ModelRow,
    out: dict[str, Any],
    pictures: Sequence[Pixels],
    told: list[Adjusted],
    footage: Footage | None,
) -> int:
    if row.frames.source == "images":
        return len(pictures)
    if row.frames.source == "params":
        return int(out["frames"]) if row.diffusion is None else _counted_frames(row, out, told, footage)
    rate, asked = Fraction(out["fps"]), out["seconds"]
    exact = decimal(asked) * rate
    frames = max(1, floor(exact + Fraction(1, 2)))
    if frames > row.frames.most:
        raise Refused(
            "/params/seconds", "out_of_range", f"{row.name} makes at most {row.frames.most} frames in one job"
        )
    if exact != frames:
        out["seconds"] = round(float(frames / rate), 6)
        why = f"seconds x fps is not a whole number of frames; the nearest is {frames}"
        told.append(Adjusted("/params/seconds", asked, out["seconds"], why))
    return frames


def _counted_frames(row: ModelRow, out: dict[str, Any], told: list[Adjusted], footage: Footage | None) -> int:
    """A count that the model can make: the next one up from what was asked, or all that a video given allows."""
    rule = row.frames
    rate = _rate(row, out, footage, told)
    seconds, asked = out.pop("seconds", None), out.get("frames")
    there = footage.frames if footage else None
    if seconds is None and asked is None:
        return rule.default or rule.most if there is None else _frames_of(row, footage, there, told)
    where = "/params/frames" if seconds is None else "/params/seconds"
    exact = Fraction(int(asked or 0)) if seconds is None else decimal(seconds) * rate
    used = rule.up(max(1, floor(exact + Fraction(1, 2))))
    if there is not None and used > there:
        used = rule.down(there) if exact <= there else 0
    if not used:
        raise Refused(where, "out_of_range", f"the video that was given has {there} frames")
    if used > rule.most:
        raise Refused(where, "out_of_range", f"{row.name} makes at most {rule.most} frames in one job")
    if used != exact:
        last = seconds if seconds is not None else asked
        now = used if seconds is None else round(float(used / rate), 6)
        told.append(Adjusted(where, last, now, f"{row.name} makes {_counts(row)}; {used} is the nearest that serves"))
    return used


def _rate(row: ModelRow, out: dict[str, Any], footage: Footage | None, told: list[Adjusted]) -> Fraction:
    """Frames a second as asked, else those of the video given, else those that the model was trained at.

    A GIF takes the nearest rate that it can keep.
    """
    if out.get("fps") is None:
        theirs = Fraction(footage.fps) if footage and footage.fps else None
        own = row.diffusion.fps if row.diffusion else Fraction(24)
        out["fps"] = ratio_text(theirs if theirs and 1 <= theirs <= 60 else own)
    if out.get("format") == "gif":
        kept = Fraction(100, round(100 / Fraction(out["fps"])))  # two hundredths at least, as rates end at 60
        if kept != Fraction(out["fps"]):
            why = "a frame of a GIF lasts a whole number of hundredths of a second, and two at least"
            told.append(Adjusted("/params/fps", out["fps"], ratio_text(kept), why))
            out["fps"] = ratio_text(kept)
    return Fraction(out["fps"])


def _frames_of(row: ModelRow, footage: Footage | None, there: int, told: list[Adjusted]) -> int:
    used = row.frames.down(there)
    if not used:
        slot = footage.slot if footage else "video"
        raise Refused(f"/input/{slot}", "out_of_range", f"{row.name} needs at least {row.frames.least} frames")
    if used != there:
        told.append(Adjusted("/params/frames", there, used, f"{row.name} makes {_counts(row)}; the first are used"))
    return used


def _counts(row: ModelRow) -> str:
    """The counts of frames that a model makes, in words."""
    rule = row.frames
    if rule.stride == 1:
        return f"{rule.least} to {rule.most} frames"
    return f"{rule.stride} x n + {rule.offset} frames, {rule.least} to {rule.most}"


def _text(size: Pixels) -> str:
    return f"{size[0]}x{size[1]}"
