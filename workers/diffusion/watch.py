"""What a diffusion run tells the world on its way: progress, checkpoints and previews; and how it hears to stop."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import torch

from framewright.catalogue.effort import effort
from framewright.errors import Yielded
from framewright.estimate import SPREAD, rate
from framewright.jobs import Eta, Phase, Progress
from framewright.params import parse_size
from workers.diffusion import binding, previews
from workers.diffusion.loading import Loaded
from workers.diffusion.pace import Blocks, Each, Pace, Past
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

    `reached` is the finished step that the run goes on from; `past` knows what such runs took here.
    """

    def __init__(
        self,
        run: Run,
        loaded: Loaded,
        pipe: Any,
        look: Look,
        past: Past,
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
        self._after_s = past.ending_s(self._pixels * int(run.params["frames"]), run.params["format"])
        self._effort = effort(loaded.facts, run.params)
        self._expected = past.each(self._effort.step) or self._reckoned()
        self._eta = self._before(reached)
        self._shown = self.denoised_at = time.monotonic()
        """When the newest step had ended (`time.monotonic`)."""
        self._previews, self._warned = True, False

    @property
    def each(self) -> Each | None:
        """A step of the last pass, without previews and checkpoints."""
        return self._pace.each

    def between_blocks(self) -> None:
        # A drain waits for the end of the step, a cancel does not.
        with suppress(Yielded):
            self._run.stop()
        part = self._blocks.begin()
        if part is not None:
            self._run.report(Progress(self._fraction(self._step + part), Phase.DENOISING, eta=self._within(part)))

    def stepped(self, reached: Reached) -> None:
        self._blocks.stepped()
        self._pace.end()
        self._step, self._steps = reached.step, reached.steps
        self._eta = self._left(reached)
        fraction = self._fraction(reached.step)
        self._run.report(Progress(fraction, Phase.DENOISING, step=reached.step, steps=reached.steps, eta=self._eta))
        self._keep(reached)
        self._run.stop()
        self._show(reached)
        self.denoised_at = time.monotonic()
        phase = self._next(reached)
        if phase is Phase.DENOISING:
            self._pace.begin()
        else:
            self._run.report(Progress(fraction, phase, eta=self._eta))
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

    def _before(self, reached: int) -> Eta | None:
        """Until there is a file, before any step was measured: those of a first pass count for what they compute."""
        steps = self._effort.flops / self._effort.step
        return self._expected and self._until(self._expected, steps * (1 - reached / self._steps))

    def _left(self, reached: Reached) -> Eta | None:
        """Until there is a file, as far as that is known."""
        if reached.step == reached.steps:
            return None if self._after_s is None else Eta(self._after_s, self._after_s, "measured")
        here = (reached.control.total or reached.control.steps) - reached.control.steps
        larger = self._pixels / (reached.size[0] * reached.size[1])
        each = self._pace.each or (self._expected and self._expected.times(1 / larger))
        return each and self._until(each, here + (reached.steps - reached.step - here) * larger)

    def _until(self, each: Each, steps: float) -> Eta:
        after_s = self._after_s or 0.0
        return Eta(each.mean_s * steps + after_s, each.slow_s * steps + after_s, each.basis)

    def _within(self, part: float) -> Eta | None:
        """What is left when `part` of a step is done."""
        if self._eta is None:
            return None
        after_s, share = self._after_s or 0.0, part / max(1, self._steps - self._step)
        p50, p90, basis = self._eta
        p90 = p50 if p90 is None else p90
        return Eta(p50 - share * (p50 - after_s), p90 - share * (p90 - after_s), basis)

    def _reckoned(self) -> Each | None:
        """A step of the last pass as the GPU's maker and the size of the model have it; None for one not listed."""
        flops_s = rate(binding.device_name(self._loaded.device), self._loaded.facts)
        if flops_s is None:
            return None
        return Each(self._effort.step / flops_s, SPREAD * self._effort.step / flops_s, "flops")

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
