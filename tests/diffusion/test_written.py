"""What a diffusion run leaves behind: every format, its sound, and what is told of how it was made."""

from __future__ import annotations

import json
import wave
from dataclasses import replace

import av
import pytest
from cases import CASES
from runs import JOB, output
from workshop import Case, Workshop

from workers.media import gate

HEARD = next(case for case in CASES if case.tiny.startswith("ltx2-t2v"))
SILENT = next(case for case in CASES if case.tiny.startswith("wan21-t2v"))


def asked(case: Case, **params: object) -> Case:
    return replace(case, params={**case.params, **params})


@pytest.mark.parametrize("kind", ["h264", "hevc", "prores", "webm", "gif", "png"])
def test_a_film_with_sound_keeps_it_in_every_format(workshop: Workshop, kind: str) -> None:
    case = asked(HEARD, format=kind)
    workshop.install(case)
    made = workshop.run(case)
    found = {one.name: gate.check(one, made.watched.run) for one in made.outputs}
    assert {"video", "poster", "thumbnail", "sprite"} <= found.keys()
    sound = made.generated.sound
    assert sound is not None
    assert made.generated.rate is not None
    assert ("sound" in found) == (kind in ("gif", "png"))
    if "sound" in found:
        with wave.open(str(output(made.outputs, "sound").path)) as heard:
            assert (heard.getframerate(), heard.getnchannels()) == (made.generated.rate, sound.shape[0])
    else:
        with av.open(str(made.outputs[0].path)) as held:
            assert held.streams.audio[0].channels == sound.shape[0]


def test_the_output_says_what_made_it_and_the_file_only_when_asked(workshop: Workshop) -> None:
    for embed in (False, True):
        case = asked(SILENT, embed_metadata=embed)
        workshop.install(case)
        made = workshop.run(case)
        params = made.watched.run.params
        told = {key: made.meta[key] for key in ("model", "revision", "seed", "params")}
        assert told["model"] == case.name
        assert told["revision"]
        assert (told["seed"], told["params"]) == (params["seed"], dict(params))
        assert "sound" not in made.meta
        with av.open(str(made.outputs[0].path)) as held:
            said = held.metadata.get("comment")
        assert (json.loads(said) if said else None) == ({"job": JOB, **told} if embed else None)
