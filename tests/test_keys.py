"""API keys: only the one that was handed out opens, and nothing that is stored or said gives it away."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from framewright import keys
from framewright.errors import Unauthenticated

PEPPER = "pepper"


@dataclass(frozen=True)
class Row:
    digest: bytes
    usable: bool = True


def test_a_key_opens_its_own_row_and_no_other() -> None:
    new, other = keys.generate(), keys.generate()
    row = Row(keys.digest(PEPPER, new.secret))
    asked: list[str] = []

    def find(id_: str) -> Row | None:
        asked.append(id_)
        return row if id_ == new.id else None

    assert keys.verify(new.text, find, PEPPER) is row
    with pytest.raises(Unauthenticated):
        keys.verify(other.text, find, PEPPER)
    assert asked == [new.id, other.id]


@pytest.mark.parametrize(
    "row",
    [None, Row(bytes(32)), Row(keys.digest("other pepper", "s")), "unusable"],
    ids=["unknown", "zero", "wrong", ""],
)
def test_every_refusal_sounds_the_same(row: Row | str | None) -> None:
    new = keys.generate()
    found = Row(keys.digest(PEPPER, new.secret), usable=False) if isinstance(row, str) else row
    with pytest.raises(Unauthenticated) as refused:
        keys.verify(new.text, lambda _: found, PEPPER)
    with pytest.raises(Unauthenticated) as malformed:
        keys.parse("nonsense")
    assert refused.value.detail == malformed.value.detail
    assert new.secret not in refused.value.detail


def test_a_typing_error_is_found_without_asking_the_database() -> None:
    text = keys.generate().text
    assert keys.parse(text).id == text.split("_")[2]
    for at in range(len(keys.PREFIX), len(text)):
        wrong = text[:at] + ("x" if text[at] != "x" else "y") + text[at + 1 :]
        with pytest.raises(Unauthenticated):
            keys.parse(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fw_live_",
        "fw_live_a_b_c",
        "Bearer x",
        "fw_live_" + "a" * 12 + "_" + "b" * 10_000_000 + "_0",
        "fw_live_é_é_é",
    ],
    ids=["empty", "prefix", "short", "other", "huge", "foreign letters"],
)
def test_what_cannot_be_a_key_is_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        keys.parse(text)


def test_keys_are_long_random_and_do_not_print() -> None:
    made = [keys.generate() for _ in range(100)]
    assert len({key.secret for key in made}) == len({key.id for key in made}) == 100
    for key in made:
        assert key.text.startswith("fw_live_")
        assert len(key.id) == 12
        assert len(key.secret) >= 32
        assert key.secret not in repr(key)
        assert key.secret not in repr(keys.parse(key.text))


def test_a_digest_depends_on_the_pepper_and_the_secret() -> None:
    digests = {keys.digest(pepper, secret) for pepper in "ab" for secret in "ab"}
    assert len(digests) == 4
    assert all(len(digest) == 32 for digest in digests)
