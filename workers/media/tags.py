"""What a file says of itself when it was asked to: one comment, JSON in plain ASCII."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_SPECIAL: Final = re.compile(r"([=;#\\\n])")


def comment(facts: Mapping[str, Any]) -> str:
    """The facts as one line."""
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), default=str)


def for_ffmpeg(text: str, path: Path, *names: str) -> None:
    """A file that ffmpeg reads tags of those names from; an argument could not be as long as a prompt may be."""
    escaped = _SPECIAL.sub(r"\\\1", text)
    lines = [f"{name}={escaped}" for name in names]
    path.write_text("\n".join([";FFMETADATA1", *lines, ""]))
