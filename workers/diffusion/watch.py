"""What a diffusion run tells the world on its way: progress, checkpoints and previews; and how it hears to stop."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import torch

from framewright.errors import Yielded
from framewright.jobs import Phase, Progress
from framewright.params import parse_size
from workers.diffusion import previews
from workers.diffusion.loading import Loaded
from workers.diffusion.pace import Blocks, Ending, Pace
from workers.diffusion.previews import Look
from workers.diffusion.running import Reached
from workers.diffusion.stepping import blocks, denoisers
from workers.engines.run import Run
from workers.media import clip

SNAPSHOT: Final = "snapshot.pt"
PREVIEW_S: Final = 2.0
LOADED, DENOISED = 0.05, 0.85  # of the fraction
_log = logging.getLogger(__name__)


class Watch:
    """Hears of every block and step of one run, which is bound to `bound` and has `segments` loops in a pass.

    `reached` is the finished step that the run goes on from; `ending` knows what comes after the last one.
    """

    def __init__(
        self,
        run: Run,
        loaded: Loaded,
        pipe: Any,
        look: Look,
        ending: Ending,
        *,
        bound: str,
        segments: int,
        reached: int,
    ) -> None:
        self._run, self._loaded, self._pipe, self._look, self._bound = run, loaded, pipe, look, bound
        self._segments, self._step, self._steps = segments, reached, int(run.params["steps"]) * segments
        count = max((len(blocks(module)) for _, module in denoisers(pipe)), default=1)
        self._blocks, self._pace = Blocks(count, self._device_done), Pace()
        width, height = parse_size(run.params["size"])
        self._pixels = width * height
        self._after_s = ending.seconds(self._pixels * int(run.params["frames"]), run.params["format"])
        self._left_s: float | None = None
        self._shown = self.denoised_at = time.monotonic()
        """When the newest step had ended (`time.monotonic`)."""
        self._previews, self._warned = True, False

    @property
    def step_s(self) -> float | None:
        """Seconds a step of the last pass, without previews and checkpoints."""
        return self._pace.step_s

    def between_blocks(self) -> None:
        # A drain waits for the end of the step, a cancel does not.
        with suppress(Yielded):
            self._run.stop()
        part = self._blocks.begin()
        if part is not None:
            left = None
            if self._left_s is not None and self._pace.step_s is not None:
                left = max(0.0, self._left_s - part * self._pace.step_s)
            self._run.report(Progress(self._fraction(self._step + part), Phase.DENOISING, eta_s=left))

    def stepped(self, reached: Reached) -> None:
        self._blocks.stepped()
        self._pace.end()
        self._step, self._steps = reached.step, reached.steps
        self._left_s = self._left(reached)
        fraction = self._fraction(reached.step)
        self._run.report(
            Progress(fraction, Phase.DENOISING, step=reached.step, steps=reached.steps, eta_s=self._left_s)
        )
        self._keep(reached)
        self._run.stop()
        self._show(reached)
        self.denoised_at = time.monotonic()
        phase = self._next(reached)
        if phase is Phase.DENOISING:
            self._pace.begin()
        else:
            self._run.report(Progress(fraction, phase, eta_s=self._left_s))
        if phase is Phase.UPSCALING:
            self._pace.forget()

    def _next(self, reached: Reached) -> Phase:
        """What the pipeline does now."""
        done, whole = reached.control.steps, reached.control.total or reached.control.steps
        if done == whole:
            return Phase.DECODING if reached.step == reached.steps else Phase.UPSCALING
        return Phase.DECODING if done % (whole // self._segments) == 0 else Phase.DENOISING

    def _fraction(self, steps: float) -> float:
        return LOADED + (DENOISED - LOADED) * min(1.0, steps / self._steps)

    def _left(self, reached: Reached) -> float | None:
        """Seconds until there is a file, as far as they are known."""
        each = self._pace.step_s
        if reached.step == reached.steps:
            return self._after_s
        if each is None:
            return None
        here = (reached.control.total or reached.control.steps) - reached.control.steps
        larger = self._pixels / (reached.size[0] * reached.size[1])
        return each * (here + (reached.steps - reached.step - here) * larger) + (self._after_s or 0.0)

    def _keep(self, reached: Reached) -> None:
        """A checkpoint that the disk does not take costs work later, never the step."""
        path, snapshot = self._run.workdir / SNAPSHOT, reached.snapshot()
        try:
            snapshot.save(path)
        except OSError as error:
            if not self._warned:
                _log.warning("a checkpoint is not kept: %s", error.strerror or type(error).__name__)
            self._warned = True
            return
        self._run.checkpoint({"plan": self._bound, "step": reached.step, "exact": snapshot.exact}, [path])

    def _show(self, reached: Reached) -> None:
        now, last = time.monotonic(), reached.control.last
        if not self._previews or last is None or reached.step == reached.steps or now - self._shown < PREVIEW_S:
            return
        self._shown = now
        try:
            picture = previews.picture(self._pipe, last, replace(self._look, size=reached.size))
            if picture is not None:
                small, width, height = clip.jpeg(picture, clip.PREVIEW_SIDE, 72)
                self._run.preview(small, "image/jpeg", width, height)
        except Exception as error:  # noqa: BLE001 - nobody asked for a picture at the price of the clip
            self._previews = False
            _log.warning("no more previews of this run: %s", type(error).__name__)
            error.__traceback__ = None  # holds what the decoder had made so far
            self._loaded.free()

    def _device_done(self) -> None:
        if self._loaded.device.type == "cuda":
            torch.cuda.current_stream(self._loaded.device).synchronize()
