"""Cut lines, killed pullers, wrong bytes and full disks cost what was in flight, never what had arrived."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from model_hub import Hub
from tiny_model import REPO, TAKEN, repository, row, there, weights
from waiting import until

from framewright.errors import HubRefused, HubUnavailable, ModelNotReady
from framewright.models.home import Home, State
from framewright.models.hub import ATTEMPTS
from framewright.models.manifest import PARTS, Manifest

Pull = Callable[..., Manifest]
SIZE = 3_000_000
BIG = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def files(hub: Hub) -> dict[str, bytes]:
    """A commit with one file of some megabytes; what of it is taken."""
    files = repository() | {BIG: weights(SIZE, 7)}
    hub.commit(REPO, files)
    return {name: body for name, body in files.items() if name in TAKEN}


def puller(hub: Hub, home: Home, *more: str) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("puller.py")
    return subprocess.Popen(
        [sys.executable, str(script), hub.url, str(home.root), *more], stdout=subprocess.PIPE, text=True
    )


def arrived(home: Home) -> int:
    """Bytes of the big file on disk, in its part or in its place."""
    folder = home.folder(row())
    parts = [path.stat().st_size for path in (folder / PARTS).glob("*")] if (folder / PARTS).exists() else []
    return max([*parts, 0])


@pytest.mark.fault
@pytest.mark.parametrize("seed", range(4))
def test_a_puller_killed_at_any_byte_goes_on_from_there(
    hub: Hub, home: Home, files: dict[str, bytes], seed: int
) -> None:
    hub.hold_at = random.Random(seed).randrange(5_000, SIZE)
    child = puller(hub, home)
    try:
        assert hub.reached.wait(60)
        until(lambda: arrived(home) == hub.hold_at)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    held = arrived(home)
    here = home.look(row())
    assert (here.state, here.fix) == (State.PARTIAL, "framewright models pull tiny")
    assert "half pulled" in str(here.why)
    with pytest.raises(ModelNotReady, match="run: framewright models pull tiny"):
        home.ready(row())

    hub.hold_at = None
    hub.release.set()
    hub.seen.clear()
    again = puller(hub, home)
    assert again.wait(60) == 0
    assert there(home.ready(row())) == files
    assert not hub.asked("/api/"), "what is to be fetched was known"
    # No byte that had reached the disk is asked for again.
    assert [seen.start for seen in hub.asked("/cdn/") if BIG.rpartition("/")[2] in seen.path and seen.start] == [held]


def test_a_line_that_breaks_again_and_again_is_taken_up_each_time(
    pulling: Pull, hub: Hub, home: Home, files: dict[str, bytes], pauses: list[float]
) -> None:
    hub.cuts = [random.Random(n).randrange(100_000, 400_000) for n in range(8)]
    told: list[int] = []
    manifest = pulling(report=lambda step: told.append(step.done))
    assert there(home.ready(row())) == files
    assert hub.sent <= manifest.size + 8 * 65_536
    assert told[-1] == manifest.size
    assert len(pauses) >= 5


def test_a_hub_that_begins_anew_after_each_break_is_given_up_when_it_gets_no_further(
    pulling: Pull, hub: Hub, home: Home, files: dict[str, bytes], pauses: list[float]
) -> None:
    hub.ignore_range = True
    hub.cuts = [300_000] + [200_000] * 30
    with pytest.raises(HubUnavailable, match=rf"the connection broke \({ATTEMPTS} tries for {BIG}"):
        pulling()
    assert len(pauses) == ATTEMPTS - 1
    pauses.clear()
    # One that gets a little further each time is not.
    hub.cuts = [350_000 + 50_000 * n for n in range(ATTEMPTS + 2)]
    pulling()
    assert there(home.ready(row())) == files
    assert len(pauses) == ATTEMPTS + 2


def test_a_line_that_brings_nothing_is_given_up_and_what_came_is_kept(
    pulling: Pull, hub: Hub, home: Home, files: dict[str, bytes], pauses: list[float]
) -> None:
    hub.say["/cdn/.*diffusion_pytorch_model"] = [(503, b"", {"Retry-After": "7"})] * 99
    with pytest.raises(HubUnavailable, match=rf"answers 503 \({ATTEMPTS} tries for"):
        pulling()
    assert 7.0 in pauses
    hub.say.clear()
    pulling()
    assert there(home.ready(row())) == files


def test_pauses_grow_and_end(pulling: Pull, hub: Hub, pauses: list[float]) -> None:
    hub.say["/api/models"] = [(500, b"", {})] * 99
    with pytest.raises(HubUnavailable, match="answers 500"):
        pulling()
    assert pauses == [1, 2, 4, 8, 16][: ATTEMPTS - 1]


def test_a_hub_that_cannot_be_reached_is_named(pulling: Pull, pauses: list[float]) -> None:
    with pytest.raises(HubUnavailable, match=r"http://127\.0\.0\.1:1 cannot be used: it cannot be reached"):
        pulling(hub_url="http://127.0.0.1:1")
    assert len(pauses) == ATTEMPTS - 1


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"<html>not a hub</html>"), (200, b"[]"), (200, b'{"sha": "main"}'), (418, b""), (200, b"[" * 99_999)],
)
def test_garbage_is_not_taken_for_a_hub(pulling: Pull, hub: Hub, status: int, body: bytes) -> None:
    hub.say["/api/models"] = [(status, body, {})]
    with pytest.raises(HubUnavailable):
        pulling()


def test_a_circle_of_redirects_ends(pulling: Pull, hub: Hub) -> None:
    hub.say["."] = [(302, b"", {"Location": "/api/models/round"})] * 99
    with pytest.raises(HubUnavailable, match="circles"):
        pulling()


def test_wrong_bytes_are_fetched_once_more_and_then_refused(
    pulling: Pull, hub: Hub, home: Home, files: dict[str, bytes]
) -> None:
    content = hashlib.sha256(files[BIG]).hexdigest()
    hub.swap[content] = files[BIG][:-1] + bytes([files[BIG][-1] ^ 1])
    with pytest.raises(HubRefused, match=f"sends other bytes for {BIG} of {REPO}"):
        pulling()
    assert len(hub.asked(f"/cdn/{content}")) == 2
    assert home.look(row()).state is State.PARTIAL
    hub.swap.clear()
    pulling()
    assert there(home.ready(row())) == files


@pytest.mark.parametrize("name", ["transformer/config.json", "model_index.json"])
def test_small_files_are_held_to_the_hash_of_git(pulling: Pull, hub: Hub, home: Home, name: str) -> None:
    body = repository()[name]
    hub.say[f"/resolve/.*{name}"] = [(200, body.replace(b"L", b"M"), {})] * 2
    with pytest.raises(HubRefused, match=f"sends other bytes for {name}"):
        pulling()


def test_a_spoilt_part_is_thrown_away(pulling: Pull, hub: Hub, home: Home, files: dict[str, bytes]) -> None:
    hub.cuts = [500_000] * 99
    with pytest.raises(HubUnavailable):
        pulling(wait=_stop_after(2))
    hub.cuts.clear()
    part = max((home.folder(row()) / PARTS).iterdir(), key=lambda path: path.stat().st_size)
    part.write_bytes(b"\0" * part.stat().st_size)
    told: list[int] = []
    manifest = pulling(report=lambda step: told.append(step.done))
    assert there(home.ready(row())) == files
    assert told[-1] == manifest.size


def _stop_after(count: int) -> Callable[[float], None]:
    left = [count]

    def wait(_: float) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise HubUnavailable("given up")

    return wait


def test_a_server_that_ignores_ranges_costs_a_fresh_start(
    pulling: Pull, hub: Hub, home: Home, files: dict[str, bytes]
) -> None:
    hub.cuts, hub.ignore_range = [500_000], True
    told: list[int] = []
    manifest = pulling(report=lambda step: told.append(step.done))
    assert there(home.ready(row())) == files
    assert told[-1] == manifest.size


def test_a_part_from_elsewhere_in_the_file_is_not_taken(pulling: Pull, hub: Hub, files: dict[str, bytes]) -> None:
    hub.cuts = [500_000]
    wrong = (206, files[BIG][5:105], {"Content-Range": "bytes 5-104/3000000"})
    with pytest.raises(HubUnavailable, match="sends byte 5"):
        pulling(wait=lambda _: hub.say.update({"/cdn/": [wrong]}))


@pytest.mark.fault
def test_a_disk_that_fills_up_is_said_and_what_came_is_kept(hub: Hub, home: Home, files: dict[str, bytes]) -> None:
    child = puller(hub, home, "1000000")
    said, _ = child.communicate(timeout=60)
    assert (child.returncode, said.partition(":")[0]) == (1, "disk_full")
    assert "what is there is kept" in said
    held = arrived(home)
    assert held == 1_000_000
    hub.seen.clear()
    again = puller(hub, home)
    assert again.wait(60) == 0
    assert there(home.ready(row())) == files
    assert held in [seen.start for seen in hub.asked("/cdn/")]
