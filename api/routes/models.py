"""Models: what each can do, what its params are, and whether a live worker could run it now."""

from __future__ import annotations

from fastapi import APIRouter

from api.auth import ModelsRead
from api.openapi import errors
from api.parts import P
from api.views import fleet
from api.views.base import ListView, listed
from api.views.fleet import ModelView
from framewright import catalogue
from framewright.errors import NotFound

router = APIRouter(prefix="/api/v1/models", tags=["models"])


@router.get("", summary="List models", responses=errors())
def list_models(parts: P, _: ModelsRead) -> ListView[ModelView]:
    workers = parts.fleet()
    return listed([fleet.model(row, workers) for row in catalogue.rows(test_engines=parts.settings.test_engines)])


@router.get("/{name}", responses=errors(404), summary="Read a model")
def get_model(name: str, parts: P, _: ModelsRead) -> ModelView:
    for row in catalogue.rows(test_engines=parts.settings.test_engines):
        if row.name == name:
            return fleet.model(row, parts.fleet())
    raise NotFound("no such model")
