"""What a run is believed to become: x0 falls to the finished latents, and its still is a frame of the clip."""

from __future__ import annotations

import numpy as np
import pytest
import shelves
import tiny
import torch
from shelves import STEPS, Shelf

FAMILIES = list(tiny.FAMILIES)
DRAWN = "ltx-t2v-decode-timestep"
"""Its VAE is told a noise level, and its decoder draws noise of its own, as LTX-Video's from 0.9.1 on."""


def _steps(name: str) -> int:
    # CogVideoX comes to its end only where 1000 / steps is not rounded up: with 6 steps noise is left in the clip.
    return 5 if tiny.FAMILIES[name].family == "cogvideox" else STEPS


_GIVEN_FIRST = ("wan22-i2v-5b", "wan21-vace", "wan22-animate")
"""Their first latent frame is a picture that was given, and is replaced or cut off before the clip is decoded."""
CAUSAL = [name for name, one in tiny.FAMILIES.items() if one.causal and name not in _GIVEN_FIRST]


@pytest.mark.parametrize("name", FAMILIES)
def test_x0_falls_to_the_finished_latents(shelf: Shelf, name: str) -> None:
    steps, segments = _steps(name), tiny.FAMILIES[name].segments
    journal = shelf.journal(name, steps)
    for segment in range(segments):
        end = steps * (segment + 1)
        guesses, final = journal.x0[end - steps : end], journal.answers[end - 1]
        away = [float((guess - final).pow(2).mean()) for guess in guesses]
        assert away[-1] == 0.0
        assert 0.0 < away[-2] < away[0]
        assert not torch.equal(guesses[0], journal.answers[end - steps])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_preview_decodes_the_latents_that_the_pipeline_itself_would(shelf: Shelf, name: str) -> None:
    journal, one = shelf.journal(name, _steps(name)), tiny.FAMILIES[name]
    assert all(still is not None and still.size == (one.width, one.height) for still in journal.stills)
    # A picture decoder is given the frames of a clip one after another, all others the whole clip.
    whole = journal.decoded[-1]
    last = journal.previewed[-1]
    if whole.ndim == 4:
        whole, last = whole.permute(1, 0, 2, 3)[None], last[:, :, None]
    assert last.shape[2] == 1
    steps = journal.x0[-1]
    count = steps.shape[1] if one.layout == "bfchw" else steps.shape[2] if steps.ndim == 5 else whole.shape[2]
    place = whole.shape[2] - count + round(0.5 * (count - 1))
    away = [float((last[:, :, 0] - whole[:, :, frame]).abs().mean()) for frame in range(whole.shape[2])]
    # The pipeline itself mixes a little noise in where the VAE expects some.
    assert away[place] < (0.05 if name == DRAWN else 1e-5)
    assert all(one > 4 * away[place] for frame, one in enumerate(away) if frame != place)


@pytest.mark.parametrize("name", CAUSAL)
def test_the_preview_of_the_first_frame_is_the_first_frame(shelf: Shelf, name: str) -> None:
    stock, _ = shelf.stock(name)
    pipe, generator, stills = shelf.load(name), tiny.seeded(), []

    def on_step(under: shelves.StepControl) -> None:
        if under.steps == STEPS:
            stills.append(shelves.still(pipe, name, under, place=0.0))

    snapshot = shelf.journal(name).snapshot(STEPS - 1)
    with shelves.control(pipe, name, generator, resume=snapshot, on_step=on_step):
        shelves.call(pipe, name, generator)
    shown, frame = np.asarray(stills[0], dtype=np.float64), stock.frames[0] * 255.0
    assert np.abs(shown - frame).max() <= 1.0
    assert np.abs(shown - stock.frames[-1] * 255.0).max() > 1.0


def test_a_preview_draws_no_random_number_from_the_run(shelf: Shelf) -> None:
    pipe, generator, drawn = shelf.load(DRAWN), tiny.seeded(), []

    def on_step(under: shelves.StepControl) -> None:
        before = torch.get_rng_state(), generator.get_state()
        assert shelves.still(pipe, DRAWN, under) is not None
        drawn.append(all(map(torch.equal, before, (torch.get_rng_state(), generator.get_state()))))

    with shelves.control(pipe, DRAWN, generator, on_step=on_step):
        shelves.call(pipe, DRAWN, generator)
    assert drawn == [True] * STEPS
