"""A hub of models over HTTP, as Hugging Face and its mirrors speak: commits, lists of files, and their bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from framewright import __version__
from framewright.errors import HubRefused, HubUnavailable

ATTEMPTS = 6
_LONGEST_WAIT_S = 60.0
_MOST_PAGES = 1000
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Interrupted(Exception):
    """The connection broke, or the hub said that a later try may work. Never leaves this package."""

    def __init__(self, why: str, *, after_s: float | None = None) -> None:
        super().__init__(why)
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class Offered:
    """A file of a repository. Large ones have a sha256, all others the id of their git blob."""

    path: str
    size: int
    sha256: str | None
    git: str | None


class Hub:
    """One hub. `wait` passes the pauses between tries (s)."""

    def __init__(self, url: str, *, token: str | None, wait: Callable[[float], None]) -> None:
        self.url = url.rstrip("/")
        self.wait = wait
        self._token = token
        # The token is for the hub itself: httpx drops it where a redirect leads to another origin.
        headers = {"User-Agent": f"framewright/{__version__}", "Accept-Encoding": "identity"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx.Client(
            headers=headers, timeout=httpx.Timeout(30, connect=10), follow_redirects=True, max_redirects=5
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def commit(self, repo: str, revision: str | None) -> str:
        """The full id of the commit that a branch, tag or commit stands for now; None is the default branch."""
        self._known(repo)
        where = f"/api/models/{repo}" + (f"/revision/{quote(revision, safe='')}" if revision else "")
        found = self._document(f"{self.url}{where}", repo)[0]
        sha = found.get("sha") if isinstance(found, dict) else None
        if not isinstance(sha, str) or not _SHA1.fullmatch(sha):
            raise HubUnavailable(f"{self.url} names no commit of {repo}; is it a hub of models?")
        if revision and _SHA1.fullmatch(revision) and sha != revision:
            raise HubRefused(f"{self.url} answers with commit {sha} of {repo} where {revision} was asked for")
        return sha

    def files(self, repo: str, commit: str) -> Iterator[Offered]:
        """Every file of a commit; names are as the hub says and not checked yet."""
        url: str | None = f"{self.url}/api/models/{self._known(repo)}/tree/{commit}?recursive=true"
        for _ in range(_MOST_PAGES):
            if url is None:
                return
            entries, url = self._document(url, repo)
            if not isinstance(entries, list):
                raise HubUnavailable(f"{self.url} does not list the files of {repo}; is it a hub of models?")
            for entry in entries:
                if not isinstance(entry, dict) or entry.get("type") != "directory":
                    yield self._offered(repo, entry)
        raise HubRefused(f"{self.url} never ends its list of the files of {repo}")

    @contextmanager
    def bytes(self, repo: str, commit: str, path: str, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The bytes of a file from `start`, or from where the hub begins instead, which comes first.

        `Interrupted` when the connection breaks.
        """
        url = f"{self.url}/{self._known(repo)}/resolve/{commit}/{quote(path)}"
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            with self._client.stream("GET", url, headers=headers) as answer:
                self._good(answer, repo, path)
                if answer.headers.get("Content-Encoding", "identity") != "identity":
                    raise HubUnavailable(f"{answer.url.host} compresses {path}, though it was asked not to")
                yield _first(answer) if answer.status_code == 206 else 0, answer.iter_raw()
        except httpx.TooManyRedirects:
            raise HubUnavailable(f"{self.url} sends us in circles for {path}") from None
        except httpx.HTTPError as error:
            raise Interrupted(_words(error)) from error

    def patiently(self, what: Callable[[], Any]) -> Any:
        """The answer of `what`, tried again after `Interrupted` with growing pauses; at the end `HubUnavailable`."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return what()
            except Interrupted as error:
                if attempt == ATTEMPTS:
                    raise HubUnavailable(f"{self.url} cannot be used: {error} ({ATTEMPTS} tries)") from error
                self.wait(pause(attempt, error))
        raise AssertionError

    def _document(self, url: str, repo: str) -> tuple[Any, str | None]:
        return self.patiently(lambda: self._once(url, repo))  # type: ignore[no-any-return]

    def _once(self, url: str, repo: str) -> tuple[Any, str | None]:
        try:
            answer = self._client.get(url)
        except httpx.TooManyRedirects:
            raise HubUnavailable(f"{self.url} sends us in circles") from None
        except httpx.HTTPError as error:
            raise Interrupted(_words(error)) from error
        self._good(answer, repo, None)
        try:
            document = answer.json()
        except (ValueError, RecursionError):
            raise HubUnavailable(f"{self.url} answers with something that is no JSON; is it a hub of models?") from None
        further = answer.links.get("next", {}).get("url")
        if further and urlsplit(further)[:2] != urlsplit(self.url)[:2]:
            raise HubRefused(f"{self.url} continues its list of files on {urlsplit(further).hostname}")
        return document, further

    def _good(self, answer: httpx.Response, repo: str, path: str | None) -> None:
        status, said = answer.status_code, answer.headers.get("X-Error-Code")
        if status in {200, 206}:
            return
        if status in {408, 425, 429} or status >= 500:
            raise Interrupted(f"it answers {status}", after_s=_after(answer.headers.get("Retry-After")))
        if said == "GatedRepo" or status == 403:
            how = "your token has no access to it" if self._token else "no token is set"
            raise HubRefused(
                f"{repo} is gated and {how}: ask for access at {self.url}/{repo}, then set FRAMEWRIGHT_HUB_TOKEN "
                "to a token with read access (for huggingface.co, HF_TOKEN does as well)"
            )
        if said == "RevisionNotFound":
            raise HubRefused(f"{self.url} does not have that revision of {repo}")
        if status == 404 and path is not None:
            raise HubRefused(f"{self.url} has no {path} in {repo}")
        if status in {401, 404}:
            raise HubRefused(
                f"{self.url} has no {repo} that can be read "
                + ("with this token" if self._token else "without a token; if it is private, set FRAMEWRIGHT_HUB_TOKEN")
            )
        if status == 416:
            raise HubUnavailable(f"{self.url} has less of {path} than it said")
        raise HubUnavailable(f"{self.url} answers {status}")

    def _known(self, repo: str) -> str:
        if not _REPO.fullmatch(repo):
            raise HubRefused(f"{repo[:80]!r} is no name of a repository")
        return repo

    def _offered(self, repo: str, entry: Any) -> Offered:
        try:
            large = entry.get("lfs") or {}
            path, size, sha256, git = entry["path"], entry["size"], large.get("oid"), entry.get("oid")
        except (AttributeError, KeyError, TypeError):
            path = size = sha256 = git = None
        sound = isinstance(path, str) and type(size) is int and size >= 0
        named = sha256 if sha256 is not None else git
        if not sound or not isinstance(named, str) or not (_SHA256 if sha256 else _SHA1).fullmatch(named):
            raise HubUnavailable(f"{self.url} lists a file of {repo} without a name, size and hash")
        return Offered(path, size, sha256, None if sha256 else git)


def pause(attempt: int, error: Interrupted) -> float:
    """How long to wait after so many tries in a row that brought nothing (s)."""
    return min(error.after_s if error.after_s is not None else 2.0 ** (attempt - 1), _LONGEST_WAIT_S)


def _first(answer: httpx.Response) -> int:
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    if not found:
        raise HubUnavailable(f"{answer.url.host} sends a part of a file and does not say which")
    return int(found[1])


def _after(value: str | None) -> float | None:
    return float(value) if value and value.isdigit() else None


def _words(error: httpx.HTTPError) -> str:
    """What happened to a connection, without the URL, which may hold a signature."""
    kinds: tuple[tuple[type[httpx.HTTPError], str], ...] = (
        (httpx.ConnectTimeout, "it does not answer"),
        (httpx.ConnectError, "it cannot be reached"),
        (httpx.TimeoutException, "it went silent"),
        (httpx.UnsupportedProtocol, "it redirects to something that is not HTTP"),
    )
    return next((words for kind, words in kinds if isinstance(error, kind)), "the connection broke")
