"""What pydantic finds wrong, as a code and a sentence of ours that names the field and what it takes. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

from pydantic_core.core_schema import ErrorType

_THEIRS: Final = frozenset(get_args(ErrorType))
_SENTENCES: Final[Mapping[str, tuple[str, str]]] = {
    "missing": ("missing", "{name} is required"),
    "extra_forbidden": ("unknown_field", "there is no such field"),
    "finite_number": ("not_finite", "{name} must be a finite number"),
    "literal_error": ("not_one_of", "{name} must be one of: {expected}"),
    "enum": ("not_one_of", "{name} must be one of: {expected}"),
    "union_tag_invalid": ("not_one_of", "{discriminator} must be one of: {expected_tags}"),
    "union_tag_not_found": ("missing", "{discriminator} is required"),
    "string_pattern_mismatch": ("wrong_format", "{name} must be {form}"),
    "string_unicode": ("wrong_type", "{name} must be valid Unicode text"),
    "greater_than_equal": ("out_of_range", "{name} must be at least {ge}"),
    "greater_than": ("out_of_range", "{name} must be more than {gt}"),
    "less_than_equal": ("out_of_range", "{name} must be at most {le}"),
    "less_than": ("out_of_range", "{name} must be less than {lt}"),
    "string_too_long": ("out_of_range", "{name} must have at most {max_length} characters"),
    "string_too_short": ("out_of_range", "{name} must have {min_length} or more characters"),
    "too_long": ("out_of_range", "{name} must have at most {max_length} entries"),
    "too_short": ("out_of_range", "{name} must have {min_length} or more entries"),
}
_TYPES: Final[Mapping[str, str]] = {
    "bool": "true or false",
    "bytes": "text",
    "datetime": "a time as RFC 3339",
    "dict": "an object",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "model": "an object",
    "model_attributes": "an object",
    "path": "a path",
    "string": "text",
    "tuple": "a list",
}
_forms: dict[str, str] = {}


def form(pattern: str, words: str) -> str:
    """The pattern itself; from now on who misses it is told that the field must be `words`."""
    _forms[pattern] = words
    return pattern


def worded(place: Sequence[int | str], kind: str, facts: Mapping[str, Any], said: str) -> tuple[str, str]:
    """Code and sentence for an error of pydantic's type `kind` at `place`, with its context `facts`.

    `said` is its own sentence. It is shown when the error is one that our validators raised, and never otherwise.
    """
    name = _name(place)
    if kind in _SENTENCES:
        code, sentence = _SENTENCES[kind]
        pattern = str(facts.get("pattern"))
        known = {"name": name, "form": _forms.get(pattern, f"text that matches {pattern}")}
        return code, sentence.format_map(defaultdict(str, {fact: _plain(facts[fact]) for fact in facts}, **known))
    if kind in {"value_error", "assertion_error"}:
        return "wrong_format", said.partition(", ")[2] or said
    if kind not in _THEIRS:
        return kind, said
    wanted = kind.removesuffix("_from_float").removesuffix("_parsing").removesuffix("_type")
    if wanted == kind:
        return kind, f"{name} cannot be used as it is"
    return "wrong_type", f"{name} must be {_TYPES.get(wanted.split('_from_')[0], 'of another type')}"


def _plain(fact: Any) -> str:
    """`'a', 'b' or 'c'` without quotes, 10000.0 without a fraction."""
    if isinstance(fact, float):
        return f"{fact:.10g}"
    return str(fact).replace(" or ", ", ").replace("'", "")


def _name(place: Sequence[int | str]) -> str:
    """`seconds`, `images[3]`: the last name, at most 64 characters of it, and where in its list."""
    at = max((at for at, part in enumerate(place) if isinstance(part, str)), default=-1)
    name = "".join(c if c.isprintable() else "?" for c in str(place[at])[:64]) if at >= 0 else ""
    return name + "".join(f"[{part}]" for part in place[at + 1 :]) or "the body"
