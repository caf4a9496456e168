"""What a denoise step believes the finished latents to be (x0), from what its scheduler was given and answered."""

from __future__ import annotations

from typing import Any

import torch

from workers.diffusion.stepping import Step


def predicted(step: Step) -> torch.Tensor | None:
    """The x0 of `step`, of the shape that the pipeline gives its scheduler; None where the scheduler tells none.

    After the last step it is the latents themselves. Tokens that an LTX condition holds fast are as they were given.
    """
    kept = getattr(step.scheduler, "model_outputs", None)
    if kept is not None:
        # UniPC and DPM++ turn the model's answer into x0 and keep it, unless they are told to predict noise.
        return kept[-1] if torch.is_tensor(kept[-1]) and _keeps_x0(step.scheduler) else None
    answered = step.output[1] if isinstance(step.output, tuple) and len(step.output) > 1 else None
    found = getattr(step.output, "pred_original_sample", answered)
    if found is not None:
        return _tensor(found)
    return _flow_matched(step) if step.index is not None and hasattr(step.scheduler, "time_shift") else None


def _keeps_x0(scheduler: Any) -> bool:
    config = scheduler.config
    if "predict_x0" in config:
        return bool(config.predict_x0)
    return config.get("algorithm_type") in ("dpmsolver++", "sde-dpmsolver++")


def _flow_matched(step: Step) -> torch.Tensor:
    """Along the straight line that flow matching steps on, to its end; Mochi's sigmas rise to 1 instead of falling."""
    sample, velocity = step.given["sample"].float(), step.given["model_output"]
    tokens = step.given.get("per_token_timesteps")
    if tokens is not None:
        # LTX with conditions: each token has a noise of its own, and the velocity comes with its sign turned.
        ahead = (tokens / step.scheduler.config.num_train_timesteps)[..., None]
    else:
        sigmas = step.scheduler.sigmas
        ahead = sigmas[-1] - sigmas[step.index]
    found: torch.Tensor = sample + ahead * velocity
    return found


def _tensor(found: Any) -> torch.Tensor | None:
    return found if torch.is_tensor(found) else None
