"""The last thing that happens to an output before it is summed up and stored: it says, signed, how it was made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from framewright import catalogue, ids
from framewright.given import LORAS
from framewright.jobs import MANIFEST, Claim, Phase, Progress
from framewright.provenance.credentials import Credentials
from framewright.provenance.manifest import Input, Making
from framewright.provenance.signing import SIDECAR, Sidecar, Unsigned, sign
from workers.track import Track
from workers.transfer import Paths, inside


def signed(
    credentials: Credentials | None,
    claim: Claim,
    outputs: Sequence[Mapping[str, Any]],
    inputs: Paths,
    work: Path,
    *,
    track: Track,
    canceled: Callable[[], bool],
    tsa_url: str | None,
) -> Sequence[Mapping[str, Any]]:
    """The outputs, each with its manifest in it; as they are when there are no credentials, so provenance is off.

    The manifest of an output that cannot carry one is an output of its own: `manifest`, or `manifest-` and the name of
    a companion.

    An output that cannot be signed is `SigningFailed`, and none of them is published. See `framewright.provenance`.
    """
    if credentials is None:
        return outputs
    track.report(Progress(phase=Phase.SIGNING))
    files = [Unsigned(output["name"], inside(work, output), output["content_type"]) for output in outputs]
    beside = sign(credentials, making(claim, inputs), files, canceled=canceled, tsa_url=tsa_url)
    return [*outputs, *(_manifest(one, first=files[0].name) for one in beside)]


def _manifest(one: Sidecar, first: str) -> Mapping[str, Any]:
    name = MANIFEST if one.of == first else f"{MANIFEST}-{one.of}"
    return {"name": name, "path": str(one.path), "content_type": SIDECAR, "meta": {"of": one.of}}


def making(claim: Claim, inputs: Paths) -> Making:
    """How the step of that claim makes its outputs from files that lie at `inputs`."""
    row = catalogue.find(claim.kind, claim.model, test_engines=True)
    return Making(
        job=ids.public(ids.JOB, claim.job_id),
        step=claim.step_name,
        model=row.name,
        provenance=row.provenance,
        inputs=tuple(_inputs(claim, inputs)),
    )


def _inputs(claim: Claim, paths: Paths) -> Iterator[Input]:
    for name, value in claim.inputs.items():
        if name == LORAS:  # weights are part of the model, and no format that a manifest can name
            continue
        lying = paths[name]
        many = value if isinstance(value, list) else [value]
        for facts, path in zip(many, lying if isinstance(lying, list) else [lying], strict=True):
            yield Input(Path(path), str(facts.get("content_type", "")), f"{ids.ASSET}_{facts['asset']}")
