"""`assets`: put, get, rm."""

from __future__ import annotations

import argparse
from itertools import islice

from framewright.cli.exits import about
from framewright.cli.making import existing, file_line
from framewright.cli.output import MORE, Out, listed, picture_text, size_text
from framewright.cli.progress import bar, transferred
from framewright.cli.target import connect
from framewright.client import Asset

PAGE = 100


def put(args: argparse.Namespace, out: Out) -> int:
    files = [existing(path) for path in args.files]
    with connect(args) as client:
        for path in files:
            with about(path.name), bar(out, f"uploading {path.name}") as shown:
                asset = client.assets.put(path, progress=transferred(shown))
            facts = picture_text(asset)
            text = f"{asset.id}  {asset.content_type}, {size_text(asset.size)}" + (f", {facts}" if facts else "")
            out.answer(asset.document, text)
    return 0


def ls(args: argparse.Namespace, out: Out) -> int:
    with connect(args) as client:
        found = list(islice(client.assets.all({"limit": min(args.limit + 1, PAGE)}), args.limit + 1))
    found, more = found[: args.limit], len(found) > args.limit
    if out.as_json:
        out.json(listed(found, more=more))
    else:
        rows = ((asset.id, asset.content_type, size_text(asset.size), picture_text(asset) or None) for asset in found)
        out.table(("asset", "type", "size", "about"), rows)
        if more:
            out.note(MORE)
    return 0


def get(args: argparse.Namespace, out: Out) -> int:
    with connect(args) as client:
        asset = client.assets.get(args.asset)
        if args.output is None:
            out.answer(asset.document, *_lines(asset))
            return 0
        with bar(out, f"fetching {args.output.name}") as shown:
            path = client.assets.download(asset, args.output, progress=transferred(shown), overwrite=args.overwrite)
    out.answer({"asset": asset.document, "files": [str(path)]}, file_line(path, asset))
    return 0


def rm(args: argparse.Namespace, out: Out) -> int:
    with connect(args) as client:
        for asset_id in args.assets:
            with about(asset_id):
                client.assets.delete(asset_id)
            out.answer({"id": asset_id, "deleted": True}, f"{asset_id} deleted")
    return 0


def _lines(asset: Asset) -> list[str]:
    """An asset for people: what is known of it, and where its bytes are."""
    known = {name: value for name, value in asset.document.items() if value is not None}
    known |= {"size": size_text(asset.size), "links": asset.links.get("content")}
    spoken = {True: "yes", False: "no"}
    return [
        f"{name}: {spoken[value] if isinstance(value, bool) else value}"
        for name, value in known.items()
        if isinstance(value, str | int | float)
    ]
