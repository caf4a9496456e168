"""A model whose blocks come and go: all that a pipeline calls is on the device when it is called."""

from __future__ import annotations

from typing import Any

import pytest
from shelves import Shelf

from framewright import catalogue
from framewright.catalogue.diffusion import Profile
from workers.diffusion.loading import Loaded


def hooked(module: Any) -> bool:
    """Whether any part of it is brought to the device by a call."""
    return any(hasattr(part, "_diffusers_hook") for part in module.modules())


@pytest.mark.parametrize(
    ("model", "tiny"),
    [
        ("ltx-video-0.9-2b", "ltx-t2v"),
        ("ltx-2-19b", "ltx2-t2v"),
        ("hunyuan-video-1.5-480p-t2v", "hunyuan15-t2v"),
    ],
)
def test_a_vae_stays_where_it_is_called(shelf: Shelf, model: str, tiny: str) -> None:
    facts = catalogue.named(model).diffusion
    assert facts is not None
    assert "group" in {profile.offload for profile in facts.profiles}
    profile = Profile(name="groups", vram_mb=0, offload="group")
    pipe = Loaded(facts, shelf.repository(tiny), profile=profile, device="cpu").pipe(facts.load_as, 32)
    # Diffusers brings blocks by `forward`, and a VAE is called by `encode` and `decode`.
    vaes = [part for name, part in pipe.components.items() if name.endswith("vae")]
    assert [hooked(vae) for vae in vaes] == [False] * (2 if facts.audio else 1)
    assert hooked(pipe.transformer)
