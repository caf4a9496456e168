"""A model is placed for the GPU that torch shows, or it is said that it does not fit there."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from cases import WAN
from workshop import Workshop

from framewright import catalogue
from framewright.catalogue.diffusion import Profile
from framewright.errors import InsufficientVram
from workers.diffusion.placing import placed


def test_a_gpu_that_is_too_small_is_told_before_anything_is_loaded(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.install(WAN)
    row = catalogue.named(WAN.name)
    assert row.diffusion is not None
    facts = replace(row.diffusion, profiles=(Profile(name="whole", vram_mb=24_000),))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=16 << 30))
    with pytest.raises(InsufficientVram, match=rf"{WAN.name} needs at least 24 GB of GPU memory, .* has 17.2 GB"):
        placed(replace(row, diffusion=facts), facts, workshop.home, None)
