"""A file that is no snapshot of ours is refused by name, and never run."""

from __future__ import annotations

import io
import pickle
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from shelves import Shelf

from workers.diffusion.stepping import HEAD, BadSnapshot, Snapshot

NAME = "wan21-t2v"


@pytest.fixture
def written(shelf: Shelf, tmp_path: Path) -> Path:
    path = tmp_path / "snapshot.pt"
    shelf.journal(NAME).snapshot(3).save(path)
    return path


def test_a_saved_snapshot_is_read_as_it_was(shelf: Shelf, written: Path) -> None:
    again, first = Snapshot.load(written), shelf.journal(NAME).snapshot(3)
    assert (again.step, again.exact) == (3, True)
    assert torch.equal(again.generator, first.generator)
    assert written.read_bytes() == (shelf.journal(NAME).folder / "3.pt").read_bytes()
    assert [path.name for path in written.parent.iterdir()] == ["snapshot.pt"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_half_a_file_is_refused(written: Path, share: float) -> None:
    whole = written.read_bytes()
    written.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(BadSnapshot, match=r"snapshot\.pt"):
        Snapshot.load(written)


def test_a_bit_that_turned_over_anywhere_is_seen(written: Path) -> None:
    whole = written.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 200)):
        written.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(BadSnapshot):
            Snapshot.load(written)


def test_another_version_is_refused(written: Path) -> None:
    written.write_bytes(written.read_bytes().replace(HEAD, HEAD.replace(b"1", b"2"), 1))
    with pytest.raises(BadSnapshot, match="does not begin with 'framewright snapshot 1'"):
        Snapshot.load(written)


def _sealed(path: Path, body: bytes) -> Path:
    """A file whose envelope is ours, whatever lies in it."""
    path.write_bytes(HEAD + sha256(body).digest() + body)
    return path


class _Evil:
    """Pickled, it is a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["zip", "legacy", "bare"])
def test_a_pickle_that_would_run_something_is_refused_and_does_not(tmp_path: Path, how: str) -> None:
    path, proof = tmp_path / "snapshot.pt", tmp_path / "proof"
    held = {"step": 3, "shapes": {}, "schedulers": (), "generator": _Evil(proof), "ambient": (), "exact": True}
    body = io.BytesIO()
    if how == "bare":
        pickle.dump(held, body, protocol=2)
    else:
        torch.save(held, body, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(BadSnapshot):
        Snapshot.load(_sealed(path, body.getvalue()))
    assert not proof.exists()
    pickle.loads(pickle.dumps(_Evil(proof)))
    assert proof.exists(), "the pickle is not as dangerous as it should be"


@pytest.mark.parametrize("held", [{"step": 3}, [1, 2], {"step": 1, "exact": True, "more": 2}])
def test_something_else_that_torch_can_read_is_refused(tmp_path: Path, held: Any) -> None:
    body = io.BytesIO()
    torch.save(held, body)
    with pytest.raises(BadSnapshot):
        Snapshot.load(_sealed(tmp_path / "other.pt", body.getvalue()))
