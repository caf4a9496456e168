"""A clip made to a sound that was given: the sound stays as it is, and decides the pictures."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.ltx2.utils import DISTILLED_SIGMA_VALUES
from runs import output
from workshop import PROMPT, SEED, Case, Made, Workshop, equal

from framewright.errors import BadInput
from workers.diffusion import hearing
from workers.engines.diffusion import Diffusion
from workers.media.sound import Sound

RATE = 48_000
CLIP: dict[str, Any] = {"size": (32, 32), "fps": "25", "max_tokens": 16}
_IMAGE = {"slots": {"image": "picture0"}, "kind": "animate"}
T2V = Case(tiny="ltx2-t2v", like="ltx-2-19b", forwards=3, **CLIP)
I2V = Case(tiny="ltx2-i2v", like="ltx-2-19b", forwards=3, **CLIP, **_IMAGE)
KEYFRAME = Case(tiny="ltx2-t2v", like="ltx-2-19b", **CLIP, slots={"keyframes": "picture0"}, kind="animate")
BARE = Case(tiny="ltx2-t2v", like="ltx-2.3-22b-distilled", **CLIP, params={"steps": None}, forwards=1)


def tones(*pitches: float, seconds: float = 0.36, rate: int = RATE) -> np.ndarray:
    """A tone in each channel, none of them as loud as can be."""
    times = np.arange(round(seconds * rate)) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * pitch * times) for pitch in pitches]).astype(np.float32)


def recorded(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(samples))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples.T * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return recorded(tmp_path / "sound.wav", tones(440, 660))


def muxed(made: Made) -> tuple[np.ndarray, int]:
    with av.open(str(output(made.outputs, "video").path)) as container:
        stream = container.streams.audio[0]
        return np.concatenate([frame.to_ndarray() for frame in container.decode(stream)], axis=1), stream.rate


@pytest.mark.parametrize(
    ("case", "cuts"), [(T2V, (1, 2, 3, 4)), (I2V, (2,)), (KEYFRAME, (2,))], ids=["t2v", "i2v", "keyframes"]
)
def test_pictures_follow_the_sound_and_a_resume_makes_the_same_ones(
    workshop: Workshop, case: Case, cuts: tuple[int, ...], sound: Path, tmp_path: Path
) -> None:
    workshop.install(case)
    engine, other = Diffusion(), recorded(tmp_path / "other.wav", tones(90, 3000))
    made = workshop.run(case, engine, more={"audio": sound})
    assert not equal(made.frames, workshop.run(case, engine).frames)
    assert not equal(made.frames, workshop.run(case, engine, more={"audio": other}).frames)
    for step in cuts:
        again = workshop.resumed(case, made, step, engine, more={"audio": sound})
        assert equal(again.frames, made.frames)
        assert (again.meta["resumed_from_step"], again.meta["exact"]) == (step, True)


def along(pipe: Any, sound: Path) -> torch.Tensor:
    """The frames that diffusers makes along a sound that it does not touch: the loop of its own refining pipeline."""
    samples = np.frombuffer(sound.read_bytes()[44:], "<i2").reshape(-1, 2).T.astype(np.float32) / 32768
    read = hearing.latents(pipe, Sound(samples, RATE), Fraction(9, 25), 1024)
    clean = pipe._normalize_audio_latents(
        pipe._pack_audio_latents(read), pipe.audio_vae.latents_mean, pipe.audio_vae.latents_std
    )
    words, mask, _, _ = pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False, max_sequence_length=16)
    said, heard, mask = pipe.connectors(words, mask, padding_side=pipe.tokenizer.padding_side)
    generator = torch.Generator().manual_seed(SEED)
    noise = pipe.prepare_latents(1, 4, 32, 32, 9, 0.0, torch.float32, torch.device("cpu"), generator)
    shape = (9 - 1) // pipe.vae_temporal_compression_ratio + 1, *[32 // pipe.vae_spatial_compression_ratio] * 2
    parts = {name: part for name, part in pipe.components.items() if part is not None}
    refining = diffusers.LTX2DFRPipeline(**parts)
    refining._interrupt = False
    free = torch.zeros(*noise.shape[:2], 1)
    made, kept = refining.denoise(
        noise,
        conditioning_mask=free,
        clean_latents=torch.zeros_like(noise),
        video_coords=pipe.transformer.rope.prepare_video_coords(1, *shape, noise.device, fps=25.0),
        keyframes_mask=free[..., 0],
        prompt_embeds=said,
        audio_prompt_embeds=heard,
        prompt_attention_mask=mask,
        sigmas=DISTILLED_SIGMA_VALUES,
        frame_rate=25.0,
        audio_latents=clean,
        freeze_audio=True,
    )
    assert torch.equal(kept, clean)
    vae = pipe.vae
    plain = pipe._denormalize_latents(
        pipe._unpack_latents(made, *shape), vae.latents_mean, vae.latents_std, vae.config.scaling_factor
    )
    frames: torch.Tensor = pipe.video_processor.postprocess_video(vae.decode(plain, None).sample, output_type="pt")[0]
    return frames


def test_pictures_are_those_that_diffusers_makes_along_a_sound_it_keeps(workshop: Workshop, sound: Path) -> None:
    workshop.install(BARE)
    made = workshop.run(BARE, more={"audio": sound})
    with torch.inference_mode():
        reference = along(workshop.pipe(BARE), sound)
    assert made.meta["forwards"] == len(DISTILLED_SIGMA_VALUES)
    # That pipeline goes from sigma to timestep and back once more.
    np.testing.assert_allclose(made.frames, reference.float().numpy(), atol=1e-5)
    assert np.abs(made.frames - workshop.run(BARE).frames).max() > 1e-3


def test_the_sound_of_the_file_is_the_one_that_was_given(workshop: Workshop, sound: Path) -> None:
    workshop.install(BARE)
    made = workshop.run(BARE, more={"audio": sound})
    heard, rate = muxed(made)
    given = tones(440, 660)
    assert (made.meta["sound"], rate) == ({"rate": RATE, "channels": 2}, RATE)
    assert "sound_changed_s" not in made.meta
    assert heard.shape[1] >= given.shape[1]
    for ours, theirs in zip(heard[:, : given.shape[1]], given, strict=True):
        # What AAC leaves of a tone; another tone, or one a hundredth of a second late, is nothing like it.
        assert np.mean((ours - theirs) ** 2) < 0.01 * np.mean(theirs**2)


def test_a_long_sound_is_cut_and_a_short_one_filled_up(workshop: Workshop, tmp_path: Path) -> None:
    workshop.install(BARE)
    engine = Diffusion()
    long = workshop.run(BARE, engine, more={"audio": recorded(tmp_path / "long.wav", tones(440, 660, seconds=3))})
    whole = workshop.run(BARE, engine, more={"audio": recorded(tmp_path / "whole.wav", tones(440, 660))})
    short = workshop.run(BARE, engine, more={"audio": recorded(tmp_path / "short.wav", tones(440, 660, seconds=0.2))})
    assert equal(long.frames, whole.frames)
    assert not equal(short.frames, whole.frames)
    assert short.meta["sound_changed_s"] == pytest.approx(0.16, abs=1e-4)
    assert muxed(short)[0].shape == muxed(long)[0].shape


@pytest.mark.parametrize("channels", [1, 4])
def test_a_sound_that_is_not_stereo_is_heard_on_both_sides_as_loud_as_it_is(channels: int) -> None:
    samples = np.repeat(tones(440, rate=16_000), channels, axis=0)
    assert equal(hearing._stereo(Sound(samples, 16_000), 16_000), np.repeat(samples[:1], 2, axis=0))


def test_a_sound_shorter_than_the_resampler_looks_at_is_silence() -> None:
    assert hearing._stereo(Sound(tones(440)[:, :1], RATE), 16_000).shape[0] == 2


def test_a_sound_that_cannot_be_resampled_is_refused_with_its_field() -> None:
    with pytest.raises(BadInput) as refused:
        hearing._stereo(Sound(tones(440), 0), 16_000)
    assert [one.pointer for one in refused.value.fields] == ["/input/audio"]


def test_spectra_are_those_that_the_models_were_trained_on() -> None:
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    samples = tones(440, 5000, rate=16_000)
    found = hearing.spectrogram(torch.from_numpy(samples), rate=16_000, window=1024, hop=160, bins=64)
    filters = mel_filter_bank(513, 64, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    how = {"mel_filters": filters, "mel_floor": 1e-5, "log_mel": "log", "power": 1.0}
    for ours, theirs in zip(found, samples, strict=True):
        expected = spectrogram(theirs, window_function(1024, "hann"), 1024, 160, **how)
        np.testing.assert_allclose(ours.numpy(), expected.T, atol=0.01)


@pytest.mark.parametrize("raw", [b"", b"RIFF\0\0\0\0WAVEfmt ", b"#EXTM3U\nfile:///etc/passwd\n", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_sound_is_refused_with_its_field(workshop: Workshop, tmp_path: Path, raw: bytes) -> None:
    workshop.install(BARE)
    path = tmp_path / "sound.wav"
    path.write_bytes(raw)
    with pytest.raises(BadInput) as refused:
        workshop.run(BARE, more={"audio": path})
    assert [one.pointer for one in refused.value.fields] == ["/input/audio"]
    assert str(tmp_path) not in str(refused.value)


def test_a_sound_without_samples_is_refused_with_its_field(workshop: Workshop, tmp_path: Path) -> None:
    workshop.install(BARE)
    with pytest.raises(BadInput) as refused:
        workshop.run(BARE, more={"audio": recorded(tmp_path / "none.wav", np.zeros((1, 0), np.float32))})
    assert [one.pointer for one in refused.value.fields] == ["/input/audio"]
