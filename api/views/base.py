"""What every answer is, and a page of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict


class View(BaseModel):
    """Base of every answer."""

    model_config = ConfigDict(frozen=True)

    def short(self) -> Self:
        """What is shown of it where many are."""
        return self


Item = TypeVar("Item")


class ListView(View, Generic[Item]):
    object: Literal["list"] = "list"
    data: tuple[Item, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


def listed(items: Sequence[Any], *, has_more: bool = False) -> ListView[Any]:
    """A page of views that have an `id` or a `name`, as they are shown where many are."""
    names = [getattr(item, "id", None) or getattr(item, "name", None) for item in items]
    return ListView(
        data=tuple(item.short() for item in items),
        first_id=names[0] if names else None,
        last_id=names[-1] if names else None,
        has_more=has_more,
    )
