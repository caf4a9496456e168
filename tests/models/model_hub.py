"""A hub of models over real HTTP: what Hugging Face answers to those who fetch, and whatever goes wrong on the way."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit


@dataclass(frozen=True)
class Seen:
    """A request that came in: at which of the two servers, and with which headers that matter here."""

    server: str
    method: str
    path: str
    start: int
    authorization: str | None


@dataclass
class Repository:
    """Commits by id, newest last; `listed` changes what the list of files says of one."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    listed: dict[str, dict[str, Any]] = field(default_factory=dict)
    gated: bool = False


class Hub:
    """The hub at `url`; large files come from a second server, as from a CDN.

    `token` is the one that opens gated repositories. `cuts` are byte counts after which the next longer answers break
    off. `hold_at` makes an answer stop at that byte, tell by `reached`, and go on after `release`. `say` replaces
    answers to paths that it matches by (status, body, headers), while it has any left; `swap` the bytes of a content.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.seen: list[Seen] = []
        self.sent = 0
        self.page = 1000
        self.token = "hf_right"
        self.cuts: list[int] = []
        self.hold_at: int | None = None
        self.reached, self.release = threading.Event(), threading.Event()
        self.say: dict[str, list[tuple[int, bytes, dict[str, str]]]] = {}
        self.swap: dict[str, bytes] = {}
        self.ignore_range = False
        self.lock = threading.Lock()
        self.url = self.cdn = ""

    def commit(self, repo: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """A new commit on a branch; answers its id."""
        there = self.repositories.setdefault(repo, Repository())
        told = json.dumps([len(there.commits), sorted((n, hashlib.sha1(b).hexdigest()) for n, b in files.items())])
        sha = hashlib.sha1(told.encode()).hexdigest()
        there.commits[sha] = dict(files)
        there.branches[branch] = sha
        return sha

    def asked(self, text: str) -> list[Seen]:
        return [seen for seen in self.seen if text in seen.path]

    def find(self, content: str) -> bytes:
        for repo in self.repositories.values():
            for files in repo.commits.values():
                for body in files.values():
                    if hashlib.sha256(body).hexdigest() == content:
                        return body
        raise KeyError(content)


def large(name: str) -> bool:
    """What the hub keeps as LFS."""
    return name.endswith((".safetensors", ".bin", ".model"))


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers until the end of the block."""
    hub = Hub()
    servers: list[_Server] = []
    for name in ("hub", "cdn"):
        handler = type("Handler", (_Handler,), {"hub": hub, "name": name})
        server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
    hub.url, hub.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    try:
        yield hub
    finally:
        hub.release.set()
        for server in servers:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients here are killed and give up: that is no error of the hub."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    name: str

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
        with self.hub.lock:
            token = self.headers.get("Authorization")
            self.hub.seen.append(Seen(self.name, self.command, self.path, self.start, token))
            said = next((s.pop(0) for p, s in self.hub.say.items() if s and re.search(p, self.path)), None)
        if said:
            self._answer(said[0], said[1], said[2])
            return
        where = urlsplit(self.path)
        for pattern, answer in (
            (r"/cdn/([0-9a-f]{64})", self._cdn),
            (r"/api/models/(.+?)/tree/([^/]+)", self._tree),
            (r"/api/models/(.+?)/revision/([^/]+)", self._info),
            (r"/api/models/(.+)", self._info),
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
        ):
            if found := re.fullmatch(pattern, where.path):
                answer(*map(unquote, found.groups()))
                return
        self._answer(404, b"Not Found")

    def _open(self, repo: str, revision: str = "main", *, listing: bool = False) -> tuple[Repository, str] | None:
        there = self.hub.repositories.get(repo)
        right = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if there is None:
            self._answer(401, b'{"error":"Invalid username or password."}', {"X-Error-Code": "RepoNotFound"})
        elif there.gated and not right and not listing:
            status = 403 if self.headers.get("Authorization") else 401
            self._answer(status, b'{"error":"restricted"}', {"X-Error-Code": "GatedRepo"})
        elif (sha := there.branches.get(revision, revision)) not in there.commits:
            self._answer(404, b'{"error":"Invalid rev id"}', {"X-Error-Code": "RevisionNotFound"})
        else:
            return there, sha
        return None

    def _info(self, repo: str, revision: str = "main") -> None:
        if found := self._open(repo, revision, listing=True):
            there, sha = found
            names = [{"rfilename": name} for name in there.commits[sha]]
            told = {"_id": "1", "id": repo, "modelId": repo, "sha": sha, "private": False, "siblings": names}
            self._answer(200, json.dumps(told | {"gated": "auto" if there.gated else False}).encode())

    def _tree(self, repo: str, revision: str) -> None:
        if not (found := self._open(repo, revision, listing=True)):
            return
        there, sha = found
        folders = {name.rpartition("/")[0] for name in there.commits[sha]} - {""}
        entries: list[dict[str, Any]] = [
            {"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(folders)
        ]
        for name, body in there.commits[sha].items():
            entry: dict[str, Any] = {"type": "file", "path": name, "size": len(body), "oid": _git(body)}
            if large(name):
                entry["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 135}
            entries.append(entry | there.listed.get(name, {}))
        at = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        link = {}
        if at + self.hub.page < len(entries):
            further = f"{self.hub.url}/api/models/{repo}/tree/{revision}?recursive=true&cursor={at + self.hub.page}"
            link = {"Link": f'<{further}>; rel="next"'}
        self._answer(200, json.dumps(entries[at : at + self.hub.page]).encode(), link)

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        if not (found := self._open(repo, revision)):
            return
        there, sha = found
        if name not in there.commits[sha]:
            self._answer(404, b"Entry not found", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
            return
        body = there.commits[sha][name]
        if not large(name):
            self._bytes(body, {"ETag": f'"{_git(body)}"', "X-Repo-Commit": sha})
            return
        content = hashlib.sha256(body).hexdigest()
        facts = {"X-Linked-Etag": f'"{content}"', "X-Linked-Size": str(len(body)), "X-Repo-Commit": sha}
        self._answer(302, b"", facts | {"Location": f"{self.hub.cdn}/cdn/{content}?name={quote(name)}&sig=secret"})

    def _cdn(self, content: str) -> None:
        body = self.hub.find(content)
        self._bytes(self.hub.swap.get(content, body), {"ETag": f'"{content}"'})

    def _bytes(self, body: bytes, headers: dict[str, str]) -> None:
        start = 0 if self.hub.ignore_range else self.start
        if start >= len(body) and start:
            self._answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
            return
        part = body[start:]
        if start:
            headers = headers | {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        self._answer(206 if start else 200, part, headers, counted=True)

    def _answer(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None, *, counted: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        with suppress(OSError):
            self._send(body) if counted else self.wfile.write(body)

    def _send(self, body: bytes) -> None:
        with self.hub.lock:
            cut = self.hub.cuts.pop(0) if self.hub.cuts and len(body) > self.hub.cuts[0] else None
            hold = self.hub.hold_at
        for at in range(0, len(body), 65_536):
            chunk = body[at : at + 65_536]
            if hold is not None and at <= hold < at + len(chunk):
                self._write(chunk[: hold - at])
                self.hub.reached.set()
                self.hub.release.wait(60)
                chunk = chunk[hold - at :]
            if cut is not None and at + len(chunk) > cut:
                self._write(chunk[: cut - at])
                self.close_connection = True
                return
            self._write(chunk)

    def _write(self, chunk: bytes) -> None:
        self.wfile.write(chunk)
        self.wfile.flush()
        with self.hub.lock:
            self.hub.sent += len(chunk)


def _git(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
