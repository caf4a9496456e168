"""Lets the workers' code be imported where only torch, diffusers and an ffmpeg are: stand-ins for what checks requests.

The packages that the rest of the project is written with (pydantic and two more) are not called while a clip is made,
only named when its modules are read. Where they are missing, a module that takes every name stands in for each of them.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

UNCALLED: Final = ("pydantic", "pydantic_core", "pydantic_settings", "platformdirs")
_BELOW: Final = ("pydantic.json_schema", "pydantic_core.core_schema")


class _Named:
    """Stands for a class, a function or a decorator that is named and never matters."""

    def __call__(self, *args: Any, **kwargs: Any) -> _Named:
        return self

    def __getattr__(self, name: str) -> _Named:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (_Base,)

    def __or__(self, other: Any) -> _Named:
        return self

    __ror__ = __or__

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __contains__(self, name: object) -> bool:
        return False


class _Base:
    """What a class has as its base whose own is not there."""

    def __init_subclass__(cls, **_: Any) -> None:
        super().__init_subclass__()


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Named()


def _stand_in() -> list[str]:
    absent = [name for name in UNCALLED if name not in sys.modules and importlib.util.find_spec(name) is None]
    for name in (*absent, *(one for one in _BELOW if one.partition(".")[0] in absent)):
        sys.modules[name] = module = _Module(name)
        module.__path__ = []
    return absent


ABSENT: Final = _stand_in()
"""The packages that stand-ins were put in the place of."""
