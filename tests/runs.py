"""Runs of engines without a worker around them: what they report is kept, and they can be told to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from framewright.jobs import Progress
from workers.engines.run import Output, Run

JOB = "job_0190f7c2aa107c3e9d5b1f0a2b3c4d5e"
Frame = NDArray[np.uint8]


@dataclass
class Watched:
    """One run and everything it said."""

    run: Run
    reports: list[Progress] = field(default_factory=list)
    previews: list[tuple[bytes, str, int, int]] = field(default_factory=list)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)


def watched(
    workdir: Path,
    params: Mapping[str, Any],
    inputs: Mapping[str, Path | list[Path]] | None = None,
    *,
    stop: Callable[[Watched], None] = lambda _: None,
    **more: Any,
) -> Watched:
    """A run in `workdir`; `stop` is asked whenever the engine asks, and sees what was said so far."""
    workdir.mkdir(parents=True, exist_ok=True)
    seen: Watched
    run = Run(
        job=more.pop("job", JOB),
        params=params,
        inputs=inputs or {},
        workdir=workdir,
        report=lambda progress: seen.reports.append(progress),
        preview=lambda *preview: seen.previews.append(preview),
        checkpoint=lambda state, _: seen.checkpoints.append(state),
        stop=lambda: stop(seen),
        **more,
    )
    seen = Watched(run)
    return seen


def output(outputs: list[Output], name: str) -> Output:
    return next(output for output in outputs if output.name == name)


def frames_of(path: Path) -> Iterator[Frame]:
    """The frames of a clip in RGB, decoded as players do: by the tags in the file."""
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24", src_colorspace="ITU709", dst_colorspace="ITU709")
