"""The application: routes, the one table from error to status, and what every answer has in common."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

import framewright
from api import auth, openapi, parts
from api.gate import KEYED, Gate
from api.metrics import Metrics
from api.problems import Problems, problem
from api.routes import assets, estimate, events, fleet, health, jobs, keys, models, shorthand, socket, uploads, verify
from api.spool import ASSETS
from framewright import errors
from framewright.errors import FramewrightError, InvalidParams, Unauthenticated
from framewright.params import fields_of
from framewright.settings import Settings, settings

STATUSES: dict[type[FramewrightError], int] = {
    errors.BadRequest: 400,
    errors.InvalidParams: 422,
    errors.BodyTooLarge: 413,
    errors.UnsupportedMedia: 415,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.ObjectMissing: 404,
    errors.Gone: 410,
    errors.Conflict: 409,
    errors.IdempotencyKeyReuse: 422,
    errors.RangeNotSatisfiable: 416,
    errors.TooManyRequests: 429,
    errors.DatabaseUnavailable: 503,
    errors.StorageUnavailable: 503,
    errors.BrokerUnavailable: 503,
}
PROBLEMS = Problems(STATUSES)
RAW_ROUTES = frozenset({("PUT", ASSETS)})
EITHER_ROUTES = frozenset({("POST", "/api/v1/verify")})
_PLACES = frozenset({"body", "query", "path", "header", "cookie"})


def create_app(load: Callable[[], Settings] = settings) -> FastAPI:
    """The application. Settings are read when it starts, so importing it needs no environment."""
    metrics = Metrics()

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        made = parts.build(load(), metrics)
        app.state.parts = made
        made.hub.start()
        threading.Thread(target=made.prepare, name="prepare", daemon=True).start()
        try:
            yield
        finally:
            await asyncio.shield(made.close())

    app = FastAPI(
        title="Framewright",
        version=framewright.__version__,
        description=openapi.DESCRIPTION,
        lifespan=life,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for module in (jobs, events, assets, uploads, verify, models, estimate, fleet, keys, shorthand, socket, health):
        app.include_router(module.router)
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]
    app.include_router(openapi.router)
    app.add_exception_handler(FramewrightError, _said)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_middleware(
        Gate,
        problems=PROBLEMS,
        max_json=lambda: app.state.parts.settings.max_json_kb * 1024,
        raw_routes=RAW_ROUTES,
        either_routes=EITHER_ROUTES,
        record=metrics.record,
    )
    return app


async def _said(request: Request, error: Exception) -> Response:
    return PROBLEMS.answer(cast("FramewrightError", error), request.scope)


async def _invalid(request: Request, error: Exception) -> Response:
    """FastAPI's own complaints, told as ours: pointers into the body, or the name of a query field or header."""
    told = []
    for one in cast("RequestValidationError", error).errors():
        place, *rest = one["loc"] if one["loc"] and one["loc"][0] in _PLACES else ("body", *one["loc"])
        told.append({**one, "loc": tuple(rest) if place == "body" else (place, *rest)})
    return PROBLEMS.answer(InvalidParams("the request cannot be accepted", fields=fields_of(told)), request.scope)  # type: ignore[arg-type]


async def _http(request: Request, error: Exception) -> Response:
    """What the router itself refuses: unknown paths and methods; of who shows no key, that first, as everywhere."""
    if request.url.path.startswith(KEYED):
        try:
            auth.check_shape(request.headers.get("authorization", ""))
        except Unauthenticated as missing:
            return PROBLEMS.answer(missing, request.scope)
    refused = cast("HTTPException", error)
    phrase = HTTPStatus(refused.status_code).phrase
    code = phrase.lower().replace(" ", "_").replace("-", "_")
    detail = f"{phrase}: see /api/v1/openapi.json for what there is"
    return problem(refused.status_code, code, detail, request.scope, headers=refused.headers)
