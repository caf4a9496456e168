"""API keys: create, list, revoke; the secret is in the answer to its creation and nowhere else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from api.auth import Admin
from api.openapi import errors
from api.parts import P
from api.views import keys as views
from api.views.base import ListView, listed
from api.views.keys import KeyView, NewKeyView
from framewright import keys, store
from framewright.errors import FieldError, InvalidParams
from framewright.params import Moment, Strict

router = APIRouter(prefix="/api/v1/api-keys", tags=["keys"])


def _known(scope: str) -> str:
    if scope not in keys.SCOPES:
        raise PydanticCustomError("not_one_of", "the scopes are: {known}", {"known": ", ".join(sorted(keys.SCOPES))})
    return scope


Scope = Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": sorted(keys.SCOPES)})]


class KeyRequest(Strict):
    """A name for people, what the key may do, and when it ends.

    Without `scopes`: jobs, assets and models. Not `ops`, because the fleet is shared by all tenants.
    """

    name: Annotated[str, Field(min_length=1, max_length=100)]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=32)] | None = None
    expires_at: Moment | None = None


@router.post("", status_code=201, responses=errors(422), summary="Create a key")
def create_key(body: KeyRequest, parts: P, who: Admin) -> NewKeyView:
    if body.expires_at is not None and body.expires_at <= datetime.now(UTC):
        wrong = FieldError("/expires_at", "out_of_range", "this moment has passed")
        raise InvalidParams("the key would never work", fields=(wrong,))
    new = keys.generate()
    scopes = frozenset(body.scopes) if body.scopes is not None else keys.DEFAULT_SCOPES
    digest = keys.digest(parts.settings.key_pepper.get_secret_value(), new.secret)
    row = store.insert_key(parts.db, new.id, who.tenant_id, body.name, digest, scopes, body.expires_at)
    return NewKeyView(**views.key(row).model_dump(), key=new.text)


@router.get("", summary="List keys", responses=errors())
def list_keys(parts: P, who: Admin) -> ListView[KeyView]:
    return listed([views.key(row) for row in store.list_keys(parts.db, who.tenant_id)])


@router.delete("/{key_id}", status_code=204, responses=errors(404), summary="Revoke a key")
def revoke_key(key_id: str, parts: P, who: Admin) -> None:
    """Works at once here, within a second on other API processes; its open sockets close within 5 s."""
    store.revoke_key(parts.db, who.tenant_id, key_id)
    parts.keyring.forget(key_id)
