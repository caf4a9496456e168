"""A sound that a clip is made to: read as the model's audio VAE reads it, and kept as it is while pictures denoise."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.audio_utils import mel_filter_bank

from framewright.errors import BadInput
from workers.media.sound import Sound

LATENTS: Final = "audio_latents"
"""The argument of a pipeline that takes a sound."""
_LEAST: Final = 1e-5
_FIELD: Final = "/input/audio"


def latents(pipe: Any, sound: Sound, seconds: Fraction, window: int) -> torch.Tensor:
    """The latents (1, C, L, M) of the first `seconds` of `sound`, which is followed by silence.

    `window` is how many samples each spectrum of the model is made of. Draws no random numbers. `BadInput` names the
    field of a sound that cannot be resampled.
    """
    vae = pipe.audio_vae
    rate, hop = vae.config.sample_rate, vae.config.mel_hop_length
    each = hop * vae.temporal_compression_ratio
    # As many as the pipeline makes noise for.
    count = round(float(seconds) * rate / each)
    wave = torch.zeros(2, max(count * each, window))
    heard = torch.from_numpy(_stereo(sound, rate))[:, : round(seconds * rate)]
    wave[:, : heard.shape[1]] = heard[:, : wave.shape[1]]
    spectrum = spectrogram(wave, rate=rate, window=window, hop=hop, bins=vae.config.mel_bins)
    with torch.no_grad():
        encoded = vae.encode(spectrum[None].to(pipe._execution_device, vae.dtype))
    read: torch.Tensor = encoded.latent_dist.mode()[:, :, :count].float()
    return read


def spectrogram(wave: torch.Tensor, *, rate: int, window: int, hop: int, bins: int) -> torch.Tensor:
    """Logarithms (channels, time, bins) of the magnitudes of samples (channels, count) on Slaney's mel scale."""
    parts = torch.stft(wave, window, hop, window=torch.hann_window(window), pad_mode="reflect", return_complex=True)
    bank = mel_filter_bank(window // 2 + 1, bins, 0.0, rate / 2, rate, norm="slaney", mel_scale="slaney")
    weights = torch.from_numpy(bank).to(wave.dtype)
    return (parts.abs().transpose(1, 2) @ weights).clamp(min=_LEAST).log()


@contextmanager
def held(pipe: Any, given: Mapping[str, Any]) -> Iterator[None]:
    """While it lasts, a sound among the arguments `given` is left as it is by a call of `pipe`.

    It gets no noise, the denoiser is told that it has none, and takes none away. So do the pipelines of LTX-2 that
    refine pictures along a finished sound (`freeze_audio`).
    """
    if LATENTS not in given:
        yield
        return
    with ExitStack() as undo:
        _shadow(undo, pipe, "prepare_audio_latents", functools.partial(_clean, pipe.prepare_audio_latents))
        _shadow(undo, pipe.transformer, "forward", functools.partial(_still, pipe.transformer.forward))
        yield


def _shadow(undo: ExitStack, holder: Any, name: str, stand_in: functools.partial[Any]) -> None:
    functools.update_wrapper(stand_in, stand_in.args[0])
    before = vars(holder).get(name)
    setattr(holder, name, stand_in)
    if before is None:
        undo.callback(vars(holder).pop, name)
    else:
        undo.callback(setattr, holder, name, before)


def _clean(original: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
    return original(*args, **{**kwargs, "noise_scale": 0.0})


def _still(original: Callable[..., tuple[torch.Tensor, ...]], *args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
    none = torch.zeros_like(kwargs["sigma"])
    pictures, sound = original(*args, **{**kwargs, "audio_timestep": none, "audio_sigma": none})
    return pictures, torch.zeros_like(sound)


def _stereo(sound: Sound, rate: int) -> NDArray[np.float32]:
    """Two channels, `rate` samples a second: those of a stereo sound, else twice the mean of all."""
    import av  # whoever gives no sound can do without

    samples = sound.samples if sound.channels == 2 else sound.samples.mean(axis=0, keepdims=True)
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(samples, np.float32), format="fltp", layout="stereo" if len(samples) == 2 else "mono"
    )
    frame.sample_rate = sound.rate
    resampler = av.AudioResampler(format="fltp", layout=frame.layout, rate=rate)
    try:
        pieces = [one.to_ndarray() for one in (*resampler.resample(frame), *resampler.resample(None))]
    except av.FFmpegError as error:
        raise BadInput(f"the sound cannot be resampled: {error.strerror}", field=_FIELD) from error
    # Fewer samples than the resampler looks at once become none.
    nothing = np.zeros((len(samples), 0), np.float32)
    resampled: NDArray[np.float32] = np.concatenate([nothing, *pieces], axis=1).astype(np.float32, copy=False)
    return resampled.repeat(2 // len(samples), axis=0)
