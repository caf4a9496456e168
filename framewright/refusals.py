"""Requests that cannot be done, refused at the field that says so."""

from __future__ import annotations

from typing import NoReturn

from framewright.errors import FieldError, InvalidParams, NotFound
from framewright.params import MAX_PROBLEMS


def refuse(place: str, code: str, sentence: str) -> NoReturn:
    """`InvalidParams` about one field, a JSON pointer into the request."""
    raise InvalidParams(sentence, fields=(FieldError(place, code, sentence),))


def refuse_unknown(places: list[str]) -> None:
    """`NotFound` when there is any place that names an asset which is not there."""
    if places:
        wrong = tuple(FieldError(place, "not_found", "no such asset") for place in places[:MAX_PROBLEMS])
        raise NotFound("no such asset", fields=wrong)
