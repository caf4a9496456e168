"""`/api/v1/ws` and the tickets that open it."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime
from urllib.parse import urlsplit

from fastapi import APIRouter
from starlette.websockets import WebSocket

from api.auth import JobsRead
from api.openapi import errors
from api.parts import P, parts_of
from api.session import Session
from api.views.base import View
from framewright import store
from framewright.settings import Settings

router = APIRouter(prefix="/api/v1", tags=["events"])

TICKET_S = 60
PROTOCOL = "framewright.v1"
_BEARER = "bearer."


class TicketView(View):
    """Good for one socket within a minute, on any API process."""

    ticket: str
    expires_at: datetime


@router.post("/ws-tickets", status_code=201, responses=errors(), summary="Get a ticket for a socket")
def create_ticket(parts: P, who: JobsRead) -> TicketView:
    ticket = secrets.token_urlsafe(32)
    digest = hashlib.sha256(ticket.encode()).digest()
    expires_at = store.insert_ticket(parts.db, digest, who.tenant_id, who.key_id, who.scopes, TICKET_S)
    return TicketView(ticket=ticket, expires_at=expires_at)


@router.websocket("/ws")
async def follow(socket: WebSocket) -> None:
    """Job events, progress and previews; see the description of this API for the messages."""
    parts = parts_of(socket)
    if not allowed(socket.headers.get("origin"), parts.settings):
        return await socket.close()
    offered: list[str] = socket.scope.get("subprotocols", [])
    ticket = next((name for name in offered if name.startswith(_BEARER)), None)
    # A browser fails the handshake unless one of the protocols that it offered is chosen.
    await socket.accept(PROTOCOL if PROTOCOL in offered else ticket)
    await Session(socket, parts, ticket.removeprefix(_BEARER) if ticket else None).run()
    return None


def allowed(origin: str | None, settings: Settings) -> bool:
    """Pages of our own origin and of those listed may open sockets; programs send no Origin and may too."""
    if origin is None:
        return True
    own = urlsplit(settings.public_url)
    return origin in {f"{own.scheme}://{own.netloc}", *settings.allowed_origins}
