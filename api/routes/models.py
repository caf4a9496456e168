"""Models: what each can do, what its params are, and whether a live worker could run it now."""

from __future__ import annotations

from fastapi import APIRouter

from api import views
from api.auth import ModelsRead
from api.openapi import errors
from api.parts import P
from api.views import ListView, ModelView, listed
from framewright import catalogue
from framewright.errors import NotFound

router = APIRouter(prefix="/api/v1/models", tags=["models"])


@router.get("", summary="List models", responses=errors())
def list_models(parts: P, _: ModelsRead) -> ListView[ModelView]:
    workers = parts.fleet()
    return listed([views.model(row, workers) for row in catalogue.rows(test_engines=parts.settings.test_engines)])


@router.get("/{name}", responses=errors(404), summary="Read a model")
def get_model(name: str, parts: P, _: ModelsRead) -> ModelView:
    for row in catalogue.rows(test_engines=parts.settings.test_engines):
        if row.name == name:
            return views.model(row, parts.fleet())
    raise NotFound("no such model")
