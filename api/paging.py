"""Cursors: `?limit&after&before&order`, the same on every list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Depends, Query

from framewright import ids
from framewright.errors import BadRequest, FieldError, NotFound


@dataclass(frozen=True, slots=True)
class Paging:
    """One page of a list; the cursors are public ids."""

    limit: int
    after: str | None
    before: str | None
    order: Literal["asc", "desc"]

    def cursors(self, prefix: str) -> tuple[UUID | None, UUID | None]:
        """The ids behind `after` and `before`; a text that cannot be one answers 400, as an unknown one does."""
        return _parse(prefix, "after", self.after), _parse(prefix, "before", self.before)


def _parse(prefix: str, name: str, text: str | None) -> UUID | None:
    if text is None:
        return None
    try:
        return ids.parse(prefix, text)
    except NotFound:
        wrong = FieldError(f"/query/{name}", "unknown_cursor", "no such id in this list")
        raise BadRequest("the cursor is not in this list", fields=(wrong,)) from None


async def _paging(
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=64, description="Items after this id, in `order`.")] = None,
    before: Annotated[str | None, Query(max_length=64, description="Items before this id, in `order`.")] = None,
    order: Literal["asc", "desc"] = "desc",
) -> Paging:
    return Paging(limit, after, before, order)


Page = Annotated[Paging, Depends(_paging)]
