"""One clip by each way: as a stock diffusers worker makes it, and as ours does. Where its seconds went comes out."""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import imageio_ffmpeg
import numpy as np
import torch
from diffusers.utils import export_to_video
from diffusers.utils.import_utils import is_imageio_available
from gpu_flops import synchronised
from gpu_models import Built, Case
from PIL import Image

from workers.diffusion import previews
from workers.diffusion.calling import Media, arguments, generator
from workers.diffusion.embeds import PromptCache
from workers.diffusion.previews import Look
from workers.diffusion.running import Generated, Reached, generate
from workers.diffusion.stepping import Snapshot
from workers.diffusion.watch import PREVIEW_S
from workers.engines import diffusion as engine
from workers.engines.run import Run
from workers.media import clip
from workers.media.clip import Shape

STAGES: Final = ("text", "denoise", "decode", "copy", "encode")


@dataclass
class Clip:
    """What one clip took, in seconds, and what came out of our own way: the frames, on the CPU."""

    wall_s: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    snapshots_s: list[float] = field(default_factory=list)
    snapshot_bytes: int = 0
    previews_s: list[float] = field(default_factory=list)
    made: Generated | None = None
    peak_bytes: int = 0

    def median(self, name: str) -> float | None:
        taken: list[float] = getattr(self, name)
        return statistics.median(taken) if taken else None


@dataclass(frozen=True, slots=True)
class Does:
    """What the worker does at its steps: previews every so many seconds (None: none), and a snapshot at each."""

    preview_s: float | None = None
    snapshots: bool = False
    encodes: bool = True


USUAL: Final = Does(preview_s=PREVIEW_S, snapshots=True)
BARE: Final = Does(encodes=False)
SHOWING: Final = Does(preview_s=0.0, encodes=False)


class _Watch:
    """Notes when a pipeline begins and ends to encode text and to decode, with nothing left to do on the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.spans: dict[str, list[tuple[float, float]]] = {"text": [], "decode": []}
        self.aside = False
        """While it is so, calls are not those of the clip itself."""

    def now(self) -> float:
        synchronised(self._device)
        return time.perf_counter()

    @contextmanager
    def watching(self, pipe: Any) -> Iterator[None]:
        text, decode = pipe.encode_prompt, pipe.vae.decode
        pipe.encode_prompt = _timed(self, "text", text)
        pipe.vae.decode = _timed(self, "decode", decode)
        try:
            yield
        finally:
            # The worker's memory of prompts has shadowed the one, and taken it away by now.
            vars(pipe).pop("encode_prompt", None)
            vars(pipe.vae).pop("decode", None)

    def stages(self, begun: float, ended: float) -> dict[str, float]:
        """Seconds from `begun` to `ended`, by stage: all between text and decoding is denoising."""
        text, decode = self.spans["text"], self.spans["decode"]
        encoded = text[-1][1] if text else begun
        return {
            "text": sum(end - start for start, end in text),
            "denoise": decode[0][0] - encoded,
            "decode": decode[-1][1] - decode[0][0],
            "copy": ended - decode[-1][1],
        }


def _timed(watch: _Watch, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if watch.aside:
            return original(*args, **kwargs)
        begun = watch.now()
        answer = original(*args, **kwargs)
        watch.spans[name].append((begun, watch.now()))
        return answer

    return call


def stock(case: Case, built: Built, number: int, steps: int | None = None) -> Clip:
    """The same call of the same pipeline, frames fetched as floats, and `export_to_video`."""
    pipe = built.pipe("t2v", min(case.size))
    given = arguments(case.facts, pipe, "t2v", _params(case, number, steps), Media())
    watch, taken = _Watch(built.device), Clip()
    _forget_peak(built.device)
    begun = watch.now()
    with watch.watching(pipe), tempfile.TemporaryDirectory() as place:
        frames = pipe(**{**given, "output_type": "np"}, generator=generator(number)).frames[0]
        made = watch.now()
        _exported(list(frames), Path(place) / "clip.mp4", case.facts.fps)
        ended = watch.now()
    taken.stages = {**watch.stages(begun, made), "encode": ended - made}
    taken.wall_s, taken.peak_bytes = ended - begun, _peak(built.device)
    return taken


def exporter() -> str:
    """What writes the stock clip: diffusers, or what it would have called where the package between is missing."""
    return "diffusers.export_to_video" if is_imageio_available() else "imageio_ffmpeg as export_to_video calls it"


def _exported(frames: list[np.ndarray[Any, Any]], path: Path, fps: Fraction) -> None:
    if is_imageio_available():
        export_to_video(frames, str(path), fps=round(fps))
        return
    levels = [(frame * 255).astype(np.uint8) for frame in frames]
    height, width = levels[0].shape[:2]
    writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=round(fps), quality=5, macro_block_size=16)
    writer.send(None)
    for one in levels:
        writer.send(np.ascontiguousarray(one))
    writer.close()


def ours(
    case: Case,
    built: Built,
    number: int,
    does: Does = USUAL,
    *,
    steps: int | None = None,
    keep: Callable[[Reached], None] | None = None,
    resume: Snapshot | None = None,
) -> Clip:
    """As the worker makes it: under step control, and through our encoder where `does.encodes`.

    `keep` is called after each step, with its time taken off the clip's; `resume` is where the clip goes on from.
    """
    params = _params(case, number, steps)
    pipe = built.pipe("t2v", min(case.size))
    noise = case.facts.call.get("decode_timestep", 0.0)
    look = Look(case.facts.family, case.facts.latents.layout, case.frames, case.size, noise)
    watch, taken = _Watch(built.device), Clip()
    _forget_peak(built.device)
    with tempfile.TemporaryDirectory(prefix="framewright-bench-") as place:
        path = Path(place) / engine.SNAPSHOT
        begun = shown = watch.now()

        def stepped(reached: Reached) -> None:
            nonlocal shown
            if does.preview_s is not None and reached.step < reached.steps:
                now = watch.now()
                if now - shown >= does.preview_s:
                    shown = now
                    _showed(pipe, reached, look, watch)
                    taken.previews_s.append(watch.now() - now)
            if does.snapshots:
                now = watch.now()
                reached.snapshot().save(path)
                taken.snapshots_s.append(watch.now() - now)
                taken.snapshot_bytes = path.stat().st_size
            if keep is not None:
                keep(reached)

        with watch.watching(pipe):
            taken.made = generate(
                built,
                pipe,
                "t2v",
                params,
                Media(),
                prompts=PromptCache(),
                on_step=stepped,
                check=lambda: None,
                resume=resume,
            )
        made = watch.now()
        taken.stages = watch.stages(begun, made)
        if does.encodes:
            copied = _encoded(case, params, taken.made.frames, Path(place), built.device)
            ended = watch.now()
            taken.stages["copy"] += copied
            taken.stages["encode"] = ended - made - copied
        taken.wall_s, taken.peak_bytes = watch.now() - begun, _peak(built.device)
    # On the device they would count as memory of the next clip.
    taken.made = replace(taken.made, frames=taken.made.frames.cpu())
    return taken


def _showed(pipe: Any, reached: Reached, look: Look, watch: _Watch) -> None:
    watch.aside = True
    try:
        last = reached.control.last
        picture = previews.picture(pipe, last, look) if last else None
    finally:
        watch.aside = False
    assert picture is not None, "this case shows no previews"
    clip.jpeg(picture, clip.PREVIEW_SIDE, 72)


def _encoded(case: Case, params: Mapping[str, Any], frames: torch.Tensor, place: Path, device: torch.device) -> float:
    """Writes the clip and all that goes with it; the seconds that frames took from the device to the encoder."""
    waited = 0.0

    def pictures() -> Iterator[Image.Image]:
        nonlocal waited
        source = engine._pictures(frames)
        while True:
            begun = time.perf_counter()
            picture = next(source, None)
            waited += time.perf_counter() - begun
            if picture is None:
                return
            yield picture

    run = Run(
        job="job_bench",
        params=params,
        inputs={},
        workdir=place,
        report=lambda _: None,
        preview=lambda *_: None,
        checkpoint=lambda *_: None,
        stop=lambda: None,
    )
    clip.write(run, Shape(*case.size, case.facts.fps, case.frames, codec="h264"), pictures)
    synchronised(device)
    return waited


def _params(case: Case, number: int, steps: int | None) -> dict[str, Any]:
    # A prompt of its own each time, so that no cache of embeddings answers.
    return {**case.params, "prompt": f"clip number {number}", "seed": number, "steps": steps or case.steps}


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
