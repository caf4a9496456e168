"""What a request brings: its assets, whether a model takes them, and what becomes of them in the clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal
from uuid import UUID

from framewright import ids
from framewright.catalogue.fitting import cropped, keyframes
from framewright.catalogue.row import ModelRow
from framewright.catalogue.shaping import Adjusted
from framewright.errors import AssetUnusable, FieldError, NotFound
from framewright.models.headers import SAFETENSORS
from framewright.params import LISTS, Input, JobRequest, parse_size
from framewright.refusals import refuse, refuse_unknown

LORAS = "loras"
_HEARD_S = 0.01


@dataclass(frozen=True, slots=True)
class AssetFacts:
    """What is known of an uploaded asset: `kind` is image, video or other; sizes in pixels and bytes."""

    id: UUID
    content_type: str
    kind: Literal["image", "video", "other"]
    size: int
    width: int | None
    height: int | None
    frames: int | None
    fps: str | None
    duration_s: float | None
    key: str
    sha256: str

    def as_input(self) -> dict[str, Any]:
        """What a step's row keeps, so that a worker can fetch and check the file without asking again."""
        return {
            "asset": self.id.hex,
            "key": self.key,
            "content_type": self.content_type,
            "size": self.size,
            "sha256": self.sha256,
        }


def asset_ids(request: JobRequest) -> dict[str, str]:
    """Every asset the request names, by JSON pointer, so that the caller reads them in one query.

    A text that cannot be an id answers as an unknown one: `NotFound`, with the field named.
    """
    asked = [("", request.input, request.params)]
    asked += [(f"/steps/{i}", step.input, step.params) for i, step in enumerate(request.steps or ())]
    found = {
        f"{at}/input{place}": ref
        for at, given, _ in asked
        for refs in given.slots().values()
        for place, ref in refs
        if not ref.startswith("@")
    } | {f"{at}/params{place}": ref for at, _, params in asked for place, ref in _weights(params)}
    refuse_unknown([place for place, ref in found.items() if not _could_be(ref)])
    return found


def _weights(params: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The LoRA files that params name, which may be anything yet: pairs of (pointer below `params`, reference)."""
    loras = params.get(LORAS)
    named = [one.get("asset") if isinstance(one, dict) else None for one in loras] if isinstance(loras, list) else []
    return [(f"/{LORAS}/{index}/asset", ref) for index, ref in enumerate(named) if isinstance(ref, str)]


def _could_be(ref: str) -> bool:
    try:
        ids.parse(ids.ASSET, ref)
    except NotFound:
        return False
    return True


class Given:
    """The assets of one request, checked and brought into what a step keeps of them."""

    def __init__(self, assets: Mapping[str, AssetFacts]) -> None:
        self._assets = assets

    def inputs(
        self, row: ModelRow, given: Input, *, at: str, outputs: Mapping[str, str]
    ) -> tuple[dict[str, Any], dict[str, list[AssetFacts]]]:
        slots = given.slots()
        rules = {rule.slot: rule for rule in row.inputs}
        for slot in slots.keys() - rules.keys():
            takes = ", ".join(rules) or "nothing"
            refuse(f"{at}/{slot}", "unknown_field", f"this model does not take this input; it takes: {takes}")
        refuse_unknown(
            [
                at + place
                for refs in slots.values()
                for place, ref in refs
                if not ref.startswith("@") and ref not in self._assets
            ]
        )
        inputs: dict[str, Any] = {}
        facts: dict[str, list[AssetFacts]] = {}
        for name, rule in rules.items():
            refs = slots.get(name, [])
            if len(refs) < rule.least:
                refuse(f"{at}/{name}", "missing", f"this model needs at least {rule.least} {rule.accepts} here")
            if len(refs) > rule.most:
                refuse(f"{at}/{name}", "out_of_range", f"this model takes at most {rule.most} here")
            found = [self._one(at + place, ref, rule.accepts, outputs) for place, ref in refs]
            facts[name] = [one for one in found if isinstance(one, AssetFacts)]
            entries = [one.as_input() if isinstance(one, AssetFacts) else {"step": one} for one in found]
            if name in slots:
                inputs[name] = entries if name in LISTS else entries[0]
        return inputs, facts

    def loras(self, params: Mapping[str, Any], *, at: str) -> dict[str, Any]:
        """The LoRA files among the assets, in the order in which the params name them."""
        named = _weights(params)
        refuse_unknown([at + place for place, ref in named if ref not in self._assets])
        files = [self._one(at + place, ref, "weights", {}) for place, ref in named]
        return {LORAS: [one.as_input() for one in files if isinstance(one, AssetFacts)]} if files else {}

    def fitted(self, row: ModelRow, given: Input, params: dict[str, Any]) -> list[Adjusted]:
        """What becomes of pictures and videos whose sizes are known; `params` learn where keyframes go."""
        if row.diffusion is None:
            return []
        known = {place: self._assets.get(ref) for refs in given.slots().values() for place, ref in refs}
        sizes = {place: (one.width, one.height) for place, one in known.items() if one and one.width and one.height}
        told = list(cropped(parse_size(params["size"]), sizes))
        if given.keyframes:
            params["keyframes"], moved = keyframes(row.diffusion, given.keyframes, params["frames"])
            told += moved
        return told

    def _one(self, place: str, ref: str, accepts: str, outputs: Mapping[str, str]) -> AssetFacts | str:
        """The facts of an asset, or the name of the step whose output is meant."""
        if ref.startswith("@"):
            if ref[1:] not in outputs:
                refuse(place, "unknown_step", "only a step of a pipeline can name another step")
            _refuse_medium(place, outputs[ref[1:]], accepts)
            return ref[1:]
        fact = self._assets[ref]
        _refuse_medium(place, _medium(fact), accepts)
        if accepts == "image" and not (fact.width and fact.height):
            sentence = "the picture has not been looked at, so its size is not known"
            raise AssetUnusable(sentence, fields=(FieldError(place, "asset_unusable", sentence),))
        return fact


def heard(sounds: Sequence[AssetFacts], params: Mapping[str, Any]) -> list[Adjusted]:
    """That a sound does not last as long as the clip that is made to it, where its length is known."""
    told: list[Adjusted] = []
    for sound in sounds:
        lasts = float(params["frames"] / Fraction(params["fps"]))
        if sound.duration_s is not None and abs(sound.duration_s - lasts) >= _HEARD_S:
            why = "it is cut" if sound.duration_s > lasts else "silence follows it"
            told.append(
                Adjusted(
                    "/input/audio",
                    sound.duration_s,
                    round(lasts, 6),
                    f"the sound lasts as many seconds as the clip; {why}",
                )
            )
    return told


def _medium(fact: AssetFacts) -> str:
    if fact.kind != "other":
        return fact.kind
    return "weights" if fact.content_type == SAFETENSORS else fact.content_type.partition("/")[0]


def _refuse_medium(place: str, medium: str, accepts: str) -> None:
    if medium != accepts:
        article = {"image": "an image", "video": "a video", "audio": "audio", "weights": "a file of LoRA weights"}
        sentence = f"this must be {article[accepts]}, and it is {article.get(medium, 'neither image nor video')}"
        raise AssetUnusable(sentence, fields=(FieldError(place, "asset_unusable", sentence),))
