"""The OpenAPI 3.1 document: every route with its scope, its error answers and examples. No page, no CDN."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.responses import JSONResponse

from api.problems import MEDIA_TYPE

router = APIRouter()

DESCRIPTION = """\
Video jobs over HTTP. Upload an asset, submit a job, follow it, download its outputs.

**Poll first; streams are an enhancement.** Answers carry absolute links; clients never build URLs. Errors are
`application/problem+json` with a stable `code` and JSON pointers in `errors`. Every progress message is a full
snapshot; `seq` counts the durable events of a job without a gap and is the same in `GET /jobs/{id}`, in the ids of the
event stream and on sockets.

**Socket** `/api/v1/ws`: get a ticket from `POST /api/v1/ws-tickets`, offer it as the subprotocol `bearer.<ticket>` or
send `{"op":"auth","ticket":"…"}` within 5 s. After `welcome`, send
`{"op":"subscribe","id":1,"topics":["job:job_…","tenant","queue","workers"],"after":{"job:job_…":41}}`. For each topic
come the events with `seq > after`, or a `snapshot`, then every `event` and the newest `progress`. With
`"previews":true` binary messages bring previews: `u32be json_len | json | bytes`. `unsubscribe` and `ping` exist too.
Close codes: 1000 every job has ended (unless `"keep_open":true`), 1001 draining, 1011 our fault, 1012 restarting,
1013 overloaded,
4400 bad message, 4401 unauthenticated, 4403 forbidden, 4404 unknown topic, 4408 no ticket in time, 4413 message too
large, 4429 too slow or too many messages. Reconnect and resume with `after`.
"""

EXAMPLES: dict[str, Any] = {
    "animate": {
        "summary": "A still picture, moved",
        "value": {
            "kind": "animate",
            "model": "camera-move",
            "input": {"image": "asset_01936f2d9c3a7c1e8b5d2f4a6c8e0b1d"},
            "params": {"move": "zoom-in", "seconds": 4, "fps": 24, "size": "1280x720"},
        },
    },
    "encode": {
        "summary": "Pictures to one video",
        "value": {
            "kind": "encode",
            "input": {"images": ["asset_01936f2d9c3a7c1e8b5d2f4a6c8e0b1d", "asset_01936f2d9c3a7c1e8b5d2f4a6c8e0b1e"]},
            "params": {"fps": 2, "quality": 65},
            "metadata": {"project": "holiday"},
        },
    },
}

PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "An error (RFC 9457). `retryable`: the same request may work later.",
    "required": ["type", "title", "status", "detail", "instance", "code", "request_id", "retryable", "errors"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string", "format": "uri-reference", "description": "The route that answered."},
        "code": {"type": "string"},
        "request_id": {"type": "string"},
        "retryable": {"type": "boolean"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "code", "detail"],
                "properties": {
                    "pointer": {"type": "string", "description": "JSON pointer into the body, or /query/…, /header/…."},
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
    "example": {
        "type": "urn:framewright:problem:invalid_params",
        "title": "Invalid params",
        "status": 422,
        "detail": "some params cannot be used",
        "instance": "/api/v1/jobs",
        "code": "invalid_params",
        "request_id": "req_01936f2d9c3a7c1e8b5d2f4a6c8e0b1d",
        "retryable": False,
        "errors": [{"pointer": "/params/fps", "code": "out_of_range", "detail": "frames a second go from 1 to 60"}],
    },
}

_MEANING = {
    400: "The request cannot be read.",
    401: "No valid key.",
    403: "The key lacks the scope.",
    404: "No such thing for this tenant.",
    409: "Its state does not allow this.",
    410: "It has expired or was deleted.",
    413: "The body is too large.",
    415: "Not a type that is read here.",
    416: "The range is past the end.",
    422: "A field is wrong; `errors` says which.",
    429: "Too much at once; see `Retry-After`.",
    503: "A part is away; see `Retry-After`.",
}
# Open to anyone who can reach the port: they tell nothing about tenants.
_PUBLIC = frozenset({"/healthz", "/readyz", "/metrics", "/api/v1/openapi.json"})
_METHODS = frozenset({"get", "put", "post", "patch", "delete", "head"})


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route; 401, 403 and 503 belong to every route that needs a key."""
    reference = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": _MEANING[status], "content": {MEDIA_TYPE: reference}}
        for status in sorted({401, 403, 503, *statuses})
    }


@router.get("/api/v1/openapi.json", summary="This document", tags=["health"])
async def openapi_json(request: Request) -> JSONResponse:
    return JSONResponse(request.app.openapi())


def document(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            openapi_version="3.1.0",
        )
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = PROBLEM
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for path, operations in made["paths"].items():
            for method, operation in operations.items():
                if method in _METHODS:
                    _finish(path, method, operation)
        app.openapi_schema = made
    return app.openapi_schema


def _finish(path: str, method: str, operation: dict[str, Any]) -> None:
    scopes = [scope for one in operation.get("security", ()) for named in one.values() for scope in named]
    if scopes or path in _PUBLIC:
        operation["x-scope"] = " ".join(scopes) or "public"
    told = operation["responses"]
    if "422" in told and "application/json" in told["422"].get("content", {}):
        told["422"] = errors(422)[422]
    if "requestBody" in operation and path not in _PUBLIC:
        for status in (400, 413, 415, 422):
            told.setdefault(str(status), errors(status)[status])
    operation["operationId"] = operation["operationId"].split("_api_")[0] + ("_head" if method == "head" else "")
