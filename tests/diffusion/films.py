"""Jobs for tiny models as a client of a house has them made, and the films that come of them."""

from __future__ import annotations

import hashlib
import io
import wave
from typing import Any

import av
import numpy as np
import tiny_rows
from house import House
from waiting import until

LONG: dict[str, Any] = {"steps": 200, "size": "64x64"}
"""A denoise of some seconds, at a size that the tiny model is far too small for."""
ENDLESS: dict[str, Any] = {"steps": 1000, "size": "64x64"}


def submitted(house: House, name: str, **asked: Any) -> str:
    answer = house.post(tiny_rows.ROWS[name].request(name, **asked))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def made(house: House, name: str, **asked: Any) -> dict[str, Any]:
    """The job of such a request, which must succeed."""
    return done(house, submitted(house, name, **asked))


def done(house: House, job: str) -> dict[str, Any]:
    answer = house.ended(job, 150)
    assert answer["status"] == "succeeded", answer["error"]
    return answer


def film(house: House, job: dict[str, Any]) -> tuple[int, int, str, bool]:
    """Frames of the first output, their side, the digest of their pixels, and whether there is sound."""
    digest, frames, side = hashlib.sha256(), 0, 0
    with av.open(io.BytesIO(house.download(job))) as container:
        for frame in container.decode(video=0):
            digest.update(frame.to_ndarray().tobytes())
            frames, side = frames + 1, frame.width
        return frames, side, digest.hexdigest(), bool(container.streams.audio)


def denoising(house: House, job: str, step: int) -> int:
    """Waits until a checkpoint at that step or a later one is stored; answers at which."""

    def stored() -> int:
        rows = house.sql(
            "SELECT checkpoint -> 'state' ->> 'step' AS step FROM steps WHERE job_id = %s", job.removeprefix("job_")
        )
        return int(rows[0]["step"] or 0)

    return until(lambda: (at := stored()) >= step and at)


def resumed_from(job: dict[str, Any], at: int) -> None:
    """The last attempt went on from the checkpoint that was seen at step `at`, or from a later one."""
    first, last = job["attempts"][0], job["attempts"][-1]
    assert (first["resumed"], first["resumed_from_step"], first["exact"]) == (False, None, None)
    assert (last["resumed"], last["exact"]) == (True, True)
    assert at <= last["resumed_from_step"] < job["params"]["steps"]


def attempts_over_http(house: House, job: dict[str, Any]) -> list[dict[str, Any]]:
    return list(house.http.get(job["links"]["attempts"]).raise_for_status().json()["data"])


def loads(house: House) -> int:
    """How often any worker has read weights so far."""
    return sum(log.read_text().count("loaded tiny-") for log in (house.system.data_dir / "logs").glob("worker*.log"))


def resident(house: House, model: str) -> bool:
    return bool(house.http.get(f"/api/v1/models/{model}").raise_for_status().json()["loaded_on"])


def tone(seconds: float) -> bytes:
    """A WAV file of one note."""
    file, rate = io.BytesIO(), 16_000
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        times = np.arange(round(seconds * rate)) / rate
        sound.writeframes((np.sin(times * 2 * np.pi * 440) * 8_000).astype("<i2").tobytes())
    return file.getvalue()
