"""The child of `framewright.provenance.verifying`: reads the manifest of the file on its stdin, prints it as JSON.

Before it looks it gives up memory, time, files and sockets, so a parser that is taken over has nothing to reach.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from framewright.provenance import box
from framewright.provenance.labels import JOB, SOURCES

MEMORY = 1_500_000_000
MOST = 100
MOST_BESIDE = 33 << 20
LONGEST = 300
UNTRUSTED = "signingCredential.untrusted"


def main() -> None:
    import c2pa

    family, cpu_s, anchors = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    beside = _all_of(int(sys.argv[4])) if sys.argv[4] else None
    box.lock(memory=MEMORY, cpu_s=cpu_s, file_bytes=0, files=3)
    try:
        context = c2pa.Context.from_dict(box.library_settings(**anchors))
        with c2pa.Reader(family, sys.stdin.buffer, beside, context=context) as reader:
            facts = told(json.loads(reader.json()))
    except c2pa.C2paError.ManifestNotFound:
        facts = {"signed": False}
    except (c2pa.C2paError, ValueError, MemoryError, RecursionError):
        facts = {"refused": True}
    box.say(facts)


def _all_of(descriptor: int) -> bytes:
    """The manifest in the open file of that number, which is closed: as large as any that is made, and no larger."""
    with open(descriptor, "rb") as file:
        return file.read(MOST_BESIDE)


def told(store: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest store says, in our words; texts are cut, lists too, and nothing is taken for true."""
    manifests = store.get("manifests", {})
    active = manifests.get(store.get("active_manifest"), {})
    results = store.get("validation_results", {}).get("activeManifest", {})
    actions = [_action(one) for one in _actions(active)][:MOST]
    signature = active.get("signature_info") or {}
    times = [signature.get("time"), *(one["when"] for one in actions)]
    return {
        "signed": True,
        "valid": store.get("validation_state") in ("Valid", "Trusted"),
        "trusted": _trusted(results) if store.get("validation_state") == "Trusted" else None,
        "actions": actions,
        "digital_source_type": _source(actions),
        "generator": _generator(active),
        "job": next((_text(one.get("job")) for one in _assertions(active, JOB)), None),
        "signed_at": next((_text(time) for time in times if time), None),
        "time_stamp": _time_stamp(signature, results),
        "signer": {
            "name": _text(signature.get("common_name")),
            "organization": _text(signature.get("issuer")),
        },
        "ingredients": [_ingredient(one, manifests) for one in active.get("ingredients", ())][:MOST],
        "problems": [_problem(one) for one in store.get("validation_status", ())][:MOST],
    }


def _trusted(results: Mapping[str, Any]) -> str | None:
    for one in results.get("success", ()):
        if one.get("code") == "signingCredential.trusted":
            return "operator" if box.OPERATOR in str(one.get("explanation")) else "development"
    return None


def _time_stamp(signature: Mapping[str, Any], results: Mapping[str, Any]) -> str | None:
    if not signature.get("time"):
        return None
    codes = {one.get("code") for one in results.get("success", ())}
    return "trusted" if "timeStamp.trusted" in codes else "unknown"


def _assertions(manifest: Mapping[str, Any], label: str) -> Iterator[Mapping[str, Any]]:
    for one in manifest.get("assertions", ()):
        # A second one of its kind has a number after its label.
        if str(one.get("label")).partition("__")[0] == label and isinstance(one.get("data"), dict):
            yield one["data"]


def _actions(manifest: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for label in ("c2pa.actions", "c2pa.actions.v2"):
        for data in _assertions(manifest, label):
            yield from (one for one in data.get("actions", ()) if isinstance(one, dict))


def _action(one: Mapping[str, Any]) -> dict[str, Any]:
    source = _text(one.get("digitalSourceType"))
    return {
        "action": _text(one.get("action")) or "",
        "when": _text(one.get("when")),
        "digital_source_type": source.removeprefix(SOURCES) if source else None,
        "description": _text(one.get("description")),
    }


def _source(actions: list[dict[str, Any]]) -> str | None:
    """The last one that was said: what was done last decides what the file is now."""
    return next((one["digital_source_type"] for one in reversed(actions) if one["digital_source_type"]), None)


def _generator(manifest: Mapping[str, Any]) -> str | None:
    info = manifest.get("claim_generator_info") or [{}]
    parts = [_text(info[0].get("name")), _text(info[0].get("version"))]
    return " ".join(part for part in parts if part) or _text(manifest.get("claim_generator"))


def _ingredient(one: Mapping[str, Any], manifests: Mapping[str, Any]) -> dict[str, Any]:
    own = manifests.get(str(one.get("active_manifest")))
    failed = ((one.get("validation_results") or {}).get("activeManifest") or {}).get("failure", ())
    wrong = [status.get("code") for status in (*failed, *one.get("validation_status", ()))]
    return {
        "title": _text(one.get("title")),
        "content_type": _text(one.get("format")),
        "relationship": _text(one.get("relationship")),
        "signed": own is not None,
        "valid": None if own is None else all(code == UNTRUSTED for code in wrong),
        "digital_source_type": None if own is None else _source([_action(step) for step in _actions(own)]),
    }


def _problem(one: Mapping[str, Any]) -> dict[str, Any]:
    return {"code": _text(one.get("code")) or "unknown", "explanation": _text(one.get("explanation")) or ""}


def _text(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    return "".join(one if one.isprintable() else " " for one in value[:LONGEST])


if __name__ == "__main__":
    main()
