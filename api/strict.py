"""Strict JSON: refuses what `json.loads` lets through and a database or another client would choke on."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from framewright.errors import BadRequest, FieldError, InvalidParams
from framewright.params import pointer

MAX_DEPTH = 32
_INT64 = range(-(2**63), 2**63)
_ESCAPE = re.compile(r"\\u", re.ASCII)
_UNUSABLE = re.compile("[\x00\ud800-\udfff]")


class _Refused:
    """Stands in the parsed document for a value that cannot be accepted, until its place is known."""

    def __init__(self, code: str, detail: str) -> None:
        self.code, self.detail = code, detail


class _Parser:
    def __init__(self) -> None:
        self.refused = False
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_float=self._float, parse_int=self._int, parse_constant=self._constant
        )

    def parse(self, text: str) -> Any:
        return self._decoder.decode(text)

    def _refuse(self, code: str, detail: str) -> _Refused:
        self.refused = True
        return _Refused(code, detail)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            found[twice] = self._refuse("duplicate_key", "this field appears twice")
        return found

    def _float(self, digits: str) -> Any:
        value = float(digits)
        return value if math.isfinite(value) else self._refuse("not_finite", "this number is too large")

    def _int(self, digits: str) -> Any:
        if len(digits) <= 20 and (value := int(digits)) in _INT64:
            return value
        return self._refuse("out_of_range", "this whole number does not fit in 64 bits")

    def _constant(self, _name: str) -> Any:
        return self._refuse("not_finite", "this must be a finite number")


def loads(body: bytes) -> Any:
    """The document in `body`.

    `BadRequest` when it is not JSON; `InvalidParams` with the JSON pointer of the first value that is not finite, not
    within 64 bits, holds NUL or half a surrogate pair, appears twice or nests deeper than 32.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8 (byte {error.start})") from None
    parser = _Parser()
    try:
        document = parser.parse(text)
    except json.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON (character {error.pos}: {_reason(error)})") from None
    except RecursionError:
        raise _invalid("", "too_deep", f"the body nests deeper than {MAX_DEPTH} levels") from None
    suspect = _ESCAPE.search(text) or text.count("[") + text.count("{") > MAX_DEPTH
    if parser.refused or (suspect and not _sound(document)):
        _check(document)
    return document


def _sound(document: Any) -> bool:
    """Whether `_check` would find nothing, level by level and without knowing where anything stands."""
    level = [document]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                if _UNUSABLE.search(value):
                    return False
            elif isinstance(value, dict):
                if any(_UNUSABLE.search(key) for key in value):
                    return False
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        if not below:
            return True
        level = below
    return False


def _reason(error: json.JSONDecodeError) -> str:
    return "a control character inside a string" if error.msg.startswith("Invalid control") else "unexpected text"


def _check(document: Any) -> None:
    for path, value in _walk(document):
        if len(path) > MAX_DEPTH:
            raise _invalid(pointer(*path[:MAX_DEPTH]), "too_deep", f"this nests deeper than {MAX_DEPTH} levels")
        if isinstance(value, _Refused):
            raise _invalid(pointer(*path), value.code, value.detail)
        if isinstance(value, str) and _UNUSABLE.search(value):
            raise _invalid(pointer(*path), "bad_text", "this text holds NUL or half of a surrogate pair")
        if path and isinstance(path[-1], str) and _UNUSABLE.search(path[-1]):
            raise _invalid(pointer(*path), "bad_text", "this field's name holds NUL or half of a surrogate pair")


def _walk(document: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    todo: list[tuple[tuple[str | int, ...], Any]] = [((), document)]
    while todo:
        path, value = todo.pop()
        yield path, value
        if isinstance(value, dict):
            todo.extend(((*path, key), item) for key, item in value.items())
        elif isinstance(value, list):
            todo.extend(((*path, index), item) for index, item in enumerate(value))


def _invalid(at: str, code: str, detail: str) -> InvalidParams:
    return InvalidParams("the body cannot be accepted", fields=(FieldError(at, code, detail),))
