"""What a diffusion run leaves behind: every format, its sound, and what is told of how it was made."""

from __future__ import annotations

import hashlib
import json
import wave
from dataclasses import replace
from typing import Any

import av
import diffusers
import pytest
import torch
import transformers
from cases import CASES, WAN_NO
from runs import JOB, output
from torch.utils._pytree import tree_map
from workshop import Case, Workshop, lora

import framewright
from framewright.errors import InvalidOutput
from workers.engines.diffusion import Diffusion
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


def test_the_output_says_how_it_was_made(workshop: Workshop) -> None:
    """What the request left open, and what would have to be the same for the same bits."""
    workshop.install(SILENT)
    weights = lora(workshop.home.root / "loras" / "film.safetensors", {"transformer.blocks.0.attn1.to_q": (24, 24)})
    engine = Diffusion()
    plain = workshop.run(SILENT, engine)
    worn = [{"name": "film", "scale": 0.5}]
    asked = workshop.run(SILENT, engine, negative_prompt="noise", flow_shift=2.5, loras=worn)
    how = {name: plain.meta[name] for name in ("profile", "dtype", "device", "tiled", "negative_prompt", "flow_shift")}
    assert how == {
        "profile": "host",
        "dtype": "float32",
        "device": "cpu",
        "tiled": False,
        "negative_prompt": WAN_NO,
        "flow_shift": 3.0,
    }
    assert plain.meta["versions"] == {
        "framewright": framewright.__version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }
    assert (asked.meta["negative_prompt"], asked.meta["flow_shift"]) == ("noise", 2.5)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert "loras" not in plain.meta
    assert asked.meta["loras"] == [{"sha256": digest, "scale": 0.5, "into": "both"}]


def test_nothing_but_black_is_no_clip(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop.install(SILENT)
    engine = Diffusion()
    assert gate.check(workshop.run(SILENT, engine).outputs[0], workshop.watched(SILENT).run)["frames"] == SILENT.frames
    assert engine._held is not None
    vae = engine._held.loaded.pipe("t2v", 16).vae
    decode = type(vae).decode

    def black(*args: Any, **kwargs: Any) -> Any:
        return tree_map(lambda one: torch.full_like(one, -1.0), decode(*args, **kwargs))

    monkeypatch.setattr(type(vae), "decode", black)
    for kind in ("h264", "gif", "png"):
        made = workshop.run(SILENT, engine, format=kind)
        with pytest.raises(InvalidOutput, match="every frame is black"):
            gate.check(made.outputs[0], made.watched.run)


def test_loading_and_running_draw_no_bars_into_the_log(workshop: Workshop, capfd: pytest.CaptureFixture[str]) -> None:
    workshop.install(SILENT)
    # As they are in a worker's runner.
    diffusers.utils.logging.enable_progress_bar()
    transformers.utils.logging.enable_progress_bar()
    capfd.readouterr()
    workshop.run(SILENT)
    assert "|" not in capfd.readouterr().err
