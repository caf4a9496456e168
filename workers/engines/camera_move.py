"""`camera-move`: a virtual camera over one still picture. It invents nothing; only the view changes.

An orbit looks from side to side at the picture as if painted on a gently curved wall, a dolly walks towards it as if it
leant back like ground. Nothing in the picture comes apart: what stands in front of something goes on covering it.
"""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar

from PIL import Image

from framewright.params import decimal, parse_size
from workers.engines.run import Output, Run
from workers.media import clip, moves, pictures, resample
from workers.media.ahead import ahead
from workers.media.clip import Shape
from workers.media.moves import Stage

FIELD = "/input/image"
_LONG_EDGE = 1280


class CameraMove:
    name: ClassVar[str] = "camera-move"

    def run(self, run: Run) -> list[Output]:
        params = run.params
        path = run.inputs["image"]
        assert not isinstance(path, list)  # noqa: S101 - the catalogue row says so
        still = pictures.decode(path, field=FIELD, max_pixels=run.max_pixels)
        run.stop()
        size = parse_size(params["size"]) if params.get("size") else own_size(still.size)
        fps = Fraction(params["fps"])
        frames = int(params.get("frames") or max(1, int(decimal(params["seconds"]) * fps + Fraction(1, 2))))
        inner, corner = opening(size, still.size, pad=params.get("fit") == "pad")
        stage = Stage.covering(inner, still.size)
        views = moves.path(
            params["move"],
            frames=frames,
            fps=float(fps),
            stage=stage,
            strength=float(params["strength"]),
            easing=params["easing"],
            seed=int(params.get("seed") or 0),
        )
        render = resample.renderer(still, stage, views)
        run.stop()

        def framed(view: moves.View) -> Image.Image:
            seen = render(view)
            if inner == size:
                return seen
            whole = Image.new("RGB", size)
            whole.paste(seen, corner)
            return whole

        shape = Shape(*size, fps, frames, quality=int(params["quality"]), codec=params["codec"])
        return clip.write(run, shape, lambda: ahead(framed, views))


def own_size(still: tuple[int, int]) -> tuple[int, int]:
    """The picture's own size, its long edge at most 1280, both sides even (pixels)."""
    scale = min(Fraction(1), Fraction(_LONG_EDGE, max(still)))
    width, height = (max(32, int(side * scale / 2 + Fraction(1, 2)) * 2) for side in still)
    return width, height


def opening(size: tuple[int, int], still: tuple[int, int], *, pad: bool) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size and upper left corner of the part of the frame that shows the picture: all of it unless padded."""
    if not pad:
        return size, (0, 0)
    scale = min(Fraction(size[0], still[0]), Fraction(size[1], still[1]))
    width, height = (
        min(whole, max(2, int(side * scale / 2 + Fraction(1, 2)) * 2)) for whole, side in zip(size, still, strict=True)
    )
    return (width, height), ((size[0] - width) // 2, (size[1] - height) // 2)
