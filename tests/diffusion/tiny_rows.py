"""The tiny models as rows of a catalogue: what a test submits to a service that knows them, and how that is started."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny
from tiny.hunyuan import LLAVA_TEMPLATE

_SMALL = 'multiple = {0}, least = {0}, most = 256, default = "{0}x{0}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A model of the catalogue whose weights are those of a tiny one of the same family.

    `inputs` are slots to give a picture to; `params` what a request adds to prompt, size, frames and seed. `weights` is
    the tiny model, where another row has the same one.
    """

    like: str
    side: int
    frames: int = 9
    inputs: tuple[str, ...] = ()
    prompt: bool = True
    sound: bool = False
    size: str = _SMALL
    more: str = ""
    weights: str | None = None
    call: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)

    def toml(self, name: str, folder: Path) -> str:
        """Its entry; 32-bit, so that what two processors make of it can be compared."""
        return (
            f'[[model]]\nname = "{name}"\nlike = "{self.like}"\npath = "{folder}"\ndtype = "float32"\nvram_mb = 0\n'
            f'licence = {{ name = "none" }}\nsize = {{ {self.size.format(self.side)} }}\n'
            f"steps = {{ default = 4, most = 1000 }}\ncall = {inline(self.call)}\n{self.more}\n"
        )

    def request(self, name: str, *, picture: str | None = None, steps: int = 4, **params: Any) -> dict[str, Any]:
        """A job for it; `picture` is an asset."""
        words = {"prompt": "a cat dancing"} if self.prompt else {}
        sized = {"size": f"{self.side}x{self.side}", "frames": self.frames, "seed": 7, "steps": steps}
        return {
            "kind": "animate" if self.inputs else "generate",
            "model": f"tiny-{name}",
            "input": dict.fromkeys(self.inputs, picture),
            "params": {**words, **sized, **self.params, **params},
        }


def inline(value: Any) -> str:
    """A value as TOML writes it in one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {inline(one)}" for name, one in value.items()) + " }"
    return json.dumps(value)


_IMAGE = ("image",)
ROWS: Mapping[str, Row] = {
    "ltx-t2v": Row(like="ltx-video-0.9-2b", side=32),
    "ltx-i2v": Row(like="ltx-video-0.9-2b", side=32, inputs=_IMAGE),
    "ltx-condition": Row(like="ltx-video-0.9.5-2b", side=32, inputs=_IMAGE),
    "ltx-condition-t2v": Row(like="ltx-video-0.9.5-2b", side=32, weights="ltx-condition"),
    "ltx2-t2v": Row(like="ltx-2-19b", side=32, sound=True),
    "ltx2-i2v": Row(like="ltx-2-19b", side=32, inputs=_IMAGE, sound=True),
    "wan21-t2v": Row(like="wan-2.1-t2v-1.3b", side=16),
    "wan21-i2v": Row(like="wan-2.1-i2v-14b-480p", side=16, inputs=_IMAGE),
    "wan22-t2v-a14b": Row(like="wan-2.2-t2v-a14b", side=16),
    "wan22-i2v-a14b": Row(like="wan-2.2-i2v-a14b", side=16, inputs=_IMAGE),
    "wan22-t2v-5b": Row(like="wan-2.2-ti2v-5b", side=32),
    "wan22-i2v-5b": Row(like="wan-2.2-ti2v-5b", side=32, inputs=_IMAGE),
    "hunyuan-t2v": Row(like="hunyuan-video", side=16),
    "hunyuan-i2v-replace": Row(
        like="hunyuan-video-i2v", side=16, inputs=_IMAGE, call={"prompt_template": LLAVA_TEMPLATE}
    ),
    "hunyuan15-t2v": Row(like="hunyuan-video-1.5-480p-t2v", side=16),
    "hunyuan15-i2v": Row(
        like="hunyuan-video-1.5-480p-i2v",
        side=16,
        size="multiple = 16, least = 16, most = 256, base = 16",
        inputs=_IMAGE,
    ),
    "cogvideox-t2v-ddim": Row(like="cogvideox-2b", side=16),
    "cogvideox-t2v-dpm": Row(like="cogvideox-5b", side=16),
    "cogvideox-i2v": Row(like="cogvideox-5b-i2v", side=16, inputs=_IMAGE, more="max_tokens = 16"),
    "mochi": Row(like="mochi-1", side=16, frames=7),
    "svd": Row(like="svd", side=64, frames=4, inputs=_IMAGE, prompt=False),
    "animatediff-ddim": Row(like="animatediff-sd-1.5", side=16, frames=8),
}


def catalogue(folder: Path) -> Path:
    """Builds the models below `folder` and writes the file that makes them known as `tiny-NAME`."""
    entries = [row.toml(f"tiny-{name}", tiny.build(row.weights or name, folder / name)) for name, row in ROWS.items()]
    file = folder / "models.toml"
    file.write_text("\n".join(entries))
    return file
