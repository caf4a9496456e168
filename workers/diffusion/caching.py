"""Step caches: work of one denoise step used again in the next. Faster, and another clip than without."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import diffusers

from framewright.catalogue.diffusion import Cache
from framewright.errors import EngineError
from workers.diffusion.stepping import denoisers

# Its configurations have no types.
_configs: Any = diffusers
THRESHOLD: Final = 0.05
"""How little the first block may change from step to step for the others to be left out."""
_MADE: Final[Mapping[Cache, Callable[[Any], Any]]] = {
    "first-block": lambda _: _configs.FirstBlockCacheConfig(threshold=THRESHOLD),
    "taylor-lite": lambda _: _configs.TaylorSeerCacheConfig(use_lite_mode=True),
    "pyramid": lambda pipe: _configs.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(100, 800),
        current_timestep_callback=lambda: pipe.current_timestep,
    ),
}


@contextmanager
def cached(pipe: Any, name: Cache | None) -> Iterator[None]:
    """While it lasts, the denoisers of `pipe` work with that cache; afterwards they are as they were, in every case.

    `EngineError` where the denoiser of this model cannot have it.
    """
    with ExitStack() as undo:
        if name is not None:
            networks: list[tuple[str, Any]] = [*denoisers(pipe)]
            for _, module in networks:
                try:
                    module.enable_cache(_MADE[name](pipe))
                except (AttributeError, ValueError) as error:
                    raise EngineError(f"this model cannot work with the cache {name}: {error}") from error
                undo.callback(module.disable_cache)
        yield
