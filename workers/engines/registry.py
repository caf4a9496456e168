"""Engines by name. Named as strings, so that only the runner that serves an engine imports what it needs."""

from __future__ import annotations

import gc
from importlib import import_module
from types import MappingProxyType

from framewright.errors import EngineError
from workers.engines.run import Engine

ENGINES = MappingProxyType(
    {
        "camera-move": "workers.engines.camera_move:CameraMove",
        "diffusion": "workers.engines.diffusion:Diffusion",
        "encode": "workers.engines.encode:Encode",
        "scripted": "workers.engines.scripted:Scripted",
    }
)


def load(name: str) -> Engine:
    """A new instance of the engine; an unknown name is an `EngineError`."""
    if name not in ENGINES:
        raise EngineError(f"this worker has no engine named {name}")
    module, _, attribute = ENGINES[name].partition(":")
    # Such an import makes a million objects, none of them garbage: looking among them takes a fifth of its time now,
    # and a quarter of a second after each run later.
    gc.disable()
    try:
        engine: Engine = getattr(import_module(module), attribute)()
        gc.freeze()
    finally:
        gc.enable()
    return engine
