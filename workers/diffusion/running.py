"""One generation from first to last step: call the pipeline under step control, and get its frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch

from framewright.catalogue.diffusion import Diffusion, Task
from framewright.errors import EngineError
from framewright.params import parse_size
from workers.diffusion import hearing, refining
from workers.diffusion.caching import cached
from workers.diffusion.calling import Media, arguments, generator, guide, segments
from workers.diffusion.embeds import PromptCache
from workers.diffusion.loading import Loaded
from workers.diffusion.stepping import Snapshot, Step, StepControl


@dataclass(frozen=True, slots=True)
class Generated:
    """Frames (T, 3, H, W) as floats in 0..1 on the device, sound (channels, samples) with its rate where there is any,
    and what it took: `steps` finished, `resumed_from` of them before this run, `forwards` computed in it. `tiled` says
    that the VAE worked piece by piece (in tiles, or frame by frame). Not `exact` is one that went on from a snapshot
    without what a step cache held."""

    frames: torch.Tensor
    sound: torch.Tensor | None
    rate: int | None
    steps: int
    resumed_from: int
    forwards: int
    tiled: bool
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Reached:
    """A finished step: number `step` of `steps` over all passes, of the pass that `control` controls.

    `size` is that of the pass, which may be smaller than that of the clip.
    """

    control: StepControl
    step: int
    steps: int
    size: tuple[int, int]
    earlier: Mapping[str, Any] | None

    def snapshot(self) -> Snapshot:
        return replace(self.control.snapshot(), earlier=self.earlier)


def generate(
    loaded: Loaded,
    pipe: Any,
    task: Task,
    params: Mapping[str, Any],
    media: Media,
    *,
    prompts: PromptCache,
    on_step: Callable[[Reached], None],
    check: Callable[[], None],
    resume: Snapshot | None = None,
    words: str = "",
) -> Generated:
    """Runs `pipe`, from `resume` on where there is one; `words` tells text encoders apart that were changed.

    A VAE that runs out of memory decodes once more piece by piece, from the last step and without a further forward.
    `torch.OutOfMemoryError` if that happens anywhere else, and whatever `on_step` and `check` raise.
    """
    facts = loaded.facts
    # Before anything is computed: without it the first pass would be for nothing.
    upscaler = loaded.upscaler() if params.get("refine") and facts.upscale is not None else None
    given = arguments(facts, pipe, task, params, media)
    guide(facts, pipe, params)
    passes = _Passes(loaded, pipe, params, prompts=prompts, on_step=on_step, check=check, words=words)
    begun, earlier = resume, resume.earlier if resume else None
    if upscaler is not None:
        small = {**given, **refining.smaller(facts, upscaler.upscale, params)}
        if earlier is None:
            earlier, begun = passes.first(small, begun, upscaler.upscale.refining), None
        enlarged = upscaler.enlarged(earlier["latents"].to(loaded.device), small)
        given = refining.larger(upscaler.upscale, given, small, enlarged)
    answer, control, tiled = passes.last(given, begun, earlier)
    frames = _frames(answer)
    sound, rate = _sound(pipe, answer, media)
    return Generated(
        frames=refining.scaled(frames, parse_size(params["size"])) if upscaler is not None else frames,
        sound=sound,
        rate=rate,
        steps=control.steps + (int(earlier["steps"]) if earlier else 0),
        resumed_from=resume.reached if resume else 0,
        forwards=passes.forwards,
        tiled=tiled,
        exact=resume is None or resume.exact,
    )


class _Passes:
    """Controlled calls of one pipeline for one run, which most models need one of."""

    def __init__(
        self,
        loaded: Loaded,
        pipe: Any,
        params: Mapping[str, Any],
        *,
        prompts: PromptCache,
        on_step: Callable[[Reached], None],
        check: Callable[[], None],
        words: str,
    ) -> None:
        self._loaded, self._pipe, self._params, self._prompts = loaded, pipe, params, prompts
        self._on_step, self._check, self._words = on_step, check, words
        self._final: Snapshot | None = None
        self.forwards = 0

    def first(self, given: Mapping[str, Any], begin: Snapshot | None, after: int) -> Mapping[str, Any]:
        """The pass of the smaller clip, `after` steps before the end; what it leaves for the next one."""
        control, seeded = self._controlled(given, begin, None, after)
        answer = self._call(given, control, seeded)
        latents = answer.frames.to("cpu", copy=True)
        return {"steps": control.steps, "latents": latents, "generator": seeded.get_state().clone()}

    def last(
        self, given: Mapping[str, Any], begin: Snapshot | None, earlier: Mapping[str, Any] | None
    ) -> tuple[Any, StepControl, bool]:
        """The pass that ends with frames, and whether they were decoded piece by piece."""
        control, seeded = self._controlled(given, begin, earlier, 0)
        pieces = _in_pieces(self._loaded.facts, given)
        try:
            return self._call(given, control, seeded), control, self._loaded.tiles
        except torch.OutOfMemoryError:
            if pieces is None or control.steps == 0 or control.steps != control.total:
                raise
        self._loaded.free()
        control, seeded = self._controlled(pieces, self._final or begin, earlier, 0)
        with self._loaded.tiled():
            return self._call(pieces, control, seeded), control, True

    def _controlled(
        self, given: Mapping[str, Any], begin: Snapshot | None, earlier: Mapping[str, Any] | None, after: int
    ) -> tuple[StepControl, torch.Generator]:
        facts, seed = self._loaded.facts, int(self._params["seed"])
        seeded = generator(seed)
        # A few schedulers draw from the process's own generator.
        torch.manual_seed(seed)
        before = 0
        if earlier is not None:
            before = int(earlier["steps"])
            seeded.set_state(earlier["generator"])
        asked = parse_size(self._params["size"])
        size = (given.get("width", asked[0]), given.get("height", asked[1]))

        def stepped(control: StepControl) -> None:
            _computed(control.last, self._loaded.mend)
            total = control.total or control.steps
            reached = Reached(control, before + control.steps, before + total + after, size, earlier)
            if control.steps == total and not after:
                self._final = reached.snapshot()
            self._on_step(reached)

        control = StepControl(
            self._pipe,
            seeded,
            schedulers=facts.schedulers,
            segments=segments(facts, self._params),
            on_step=stepped,
            check=self._check,
            resume=begin,
        )
        return control, seeded

    def _call(self, given: Mapping[str, Any], control: StepControl, seeded: torch.Generator) -> Any:
        with ExitStack() as stack:
            stack.callback(self._count, control)
            stack.enter_context(self._prompts.remembering(self._pipe, self._words))
            stack.enter_context(hearing.held(self._pipe, given))
            stack.enter_context(cached(self._pipe, self._params.get("cache")))
            stack.enter_context(control)
            # Not in inference mode: weights that a profile moves or casts in it cannot be changed outside any more.
            stack.enter_context(torch.no_grad())
            return self._pipe(**given, generator=seeded)

    def _count(self, control: StepControl) -> None:
        self.forwards += control.forwards


def _in_pieces(facts: Diffusion, given: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The call whose VAE needs the least memory; None where it has no other way of working."""
    if "decode_chunk_size" in given:
        return {**given, "decode_chunk_size": 1}
    return given if facts.tiling else None


def _computed(step: Step | None, mend: str) -> None:
    """`EngineError` for a step that computed no numbers, so that nobody waits for the rest of them."""
    if step is None:
        return
    answer = step.output[0] if isinstance(step.output, tuple) else step.output.prev_sample
    if not torch.isfinite(answer).all():
        raise EngineError(f"the model computes no numbers (NaN), as damaged weights do; {mend}")


def _sound(pipe: Any, answer: Any, media: Media) -> tuple[torch.Tensor | None, int | None]:
    """The sound of a clip and its rate: the one it was made to, as it was given, else what the model made."""
    if media.audio is not None:
        return torch.from_numpy(media.audio.samples), media.audio.rate
    made = getattr(answer, "audio", None)
    return (None, None) if made is None else (made[0].float().cpu(), int(pipe.vocoder.config.output_sampling_rate))


def _frames(answer: Any) -> torch.Tensor:
    frames = answer.frames[0]
    if not torch.is_tensor(frames) or frames.ndim != 4 or frames.shape[1] != 3:
        raise EngineError("the pipeline answered with something that is no clip")
    return frames


def check_shape(frames: torch.Tensor, size: tuple[int, int], count: int, mend: str) -> None:
    """`EngineError` unless the clip is what was planned, so that nobody gets another size or length unasked."""
    got = (frames.shape[0], frames.shape[3], frames.shape[2])
    if got != (count, *size):
        raise EngineError(f"the pipeline made {got[0]} frames of {got[1]}x{got[2]}, not {count} of {size[0]}x{size[1]}")
    if not torch.isfinite(frames).all():
        raise EngineError(f"the model makes colours of no numbers (NaN), as damaged weights do; {mend}")
