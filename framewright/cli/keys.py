"""`keys`: API keys of the service, and the first one of all, which no service can make."""

from __future__ import annotations

import argparse

from framewright.cli.output import Out
from framewright.cli.target import connect
from framewright.keys import generate as new_key


def create(args: argparse.Namespace, out: Out) -> int:
    request = {"name": args.name, "scopes": args.scope or None, "expires_at": args.expires_at}
    with connect(args) as client:
        key = client.keys.create({name: value for name, value in request.items() if value is not None})
    out.note("Keep it: it is shown this once.")
    out.answer(key.document, str(key.key))
    return 0


def ls(args: argparse.Namespace, out: Out) -> int:
    with connect(args) as client:
        page = client.keys.page()
    if out.as_json:
        out.json(page.document)
    else:
        rows = [
            (
                key.id,
                key.name,
                ",".join(key.scopes),
                *(key.document.get(name) for name in ("expires_at", "last_used_at", "revoked_at")),
            )
            for key in page
        ]
        out.table(("key", "name", "scopes", "expires", "last used", "revoked"), rows)
    return 0


def revoke(args: argparse.Namespace, out: Out) -> int:
    with connect(args) as client:
        for given in args.keys:
            client.keys.revoke(given)
            out.answer({"id": given, "revoked": True}, f"{given} revoked")
    return 0


def generate(_: argparse.Namespace, out: Out) -> int:
    key = new_key().text
    out.note("Set it as FRAMEWRIGHT_BOOTSTRAP_KEY of the API and keep it as FRAMEWRIGHT_API_KEY.")
    out.answer({"key": key}, key)
    return 0
