"""Where server programs come from: the wheel, else the system; copied out when the servers' account cannot run them."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from framewright.embedded.account import Account
from framewright.embedded.datadir import plain_environment
from framewright.errors import EmbeddedServerError

_CHECK_S = 20
_BUSY_S = 5


@dataclass(frozen=True, slots=True)
class Program:
    """A server program that was seen to run, with its version."""

    path: Path
    family: str
    version: tuple[int, ...]

    @property
    def major(self) -> int:
        """Data of one major is not read by another."""
        return self.version[0]


@dataclass(frozen=True, slots=True)
class Source:
    """A program that may be here. `package` is the wheel's folder it came in, `needs` what of that it uses."""

    path: Path
    package: Path | None = None
    needs: tuple[str, ...] = ()


def package_folder(package: str) -> Path | None:
    """Where an installed package lies; it is not imported."""
    found = importlib.util.find_spec(package)
    return Path(found.origin).parent if found and found.origin else None


def system_programs(names: Iterable[str], further: Iterable[Path] = ()) -> Iterator[Path]:
    """Programs on the PATH and in `further` directories."""
    for name in names:
        if on_path := shutil.which(name):
            yield Path(on_path)
        for folder in further:
            if (candidate := folder / name).is_file():
                yield candidate


def runnable(source: Source, account: Account) -> Program:
    """`source` as a program that `account` can run, from a copy when it cannot be reached; raises when broken."""
    path = source.path
    try:
        return _ask(path, account)
    except PermissionError:
        if not account.steps_down:
            raise EmbeddedServerError(f"{path} is not executable; reinstall it or mend its mode") from None
        if source.package is None:
            raise EmbeddedServerError(f"{path} cannot be run by uid {account.uid}") from None
    copy = _copy_out(path, source.package, source.needs, account)
    try:
        return _ask(copy, account)
    except PermissionError:
        raise EmbeddedServerError(f"{copy} cannot be run by uid {account.uid} either; is it mounted noexec?") from None


def _ask(path: Path, account: Account) -> Program:
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            asked = subprocess.run(
                [path, "--version"],
                capture_output=True,
                text=True,
                timeout=_CHECK_S,
                check=False,
                env=plain_environment(),
                cwd="/",
                **account.identity,
            )
        except PermissionError:
            raise
        except (OSError, subprocess.TimeoutExpired) as error:
            # A child that another thread forked while we copied holds the file open for writing until its own exec.
            busy = isinstance(error, OSError) and error.errno == errno.ETXTBSY
            if not busy or time.monotonic() > deadline:
                raise EmbeddedServerError(f"{path} does not run: {error}; reinstall it") from error
            time.sleep(0.01)
        else:
            return _program(path, asked)


def _program(path: Path, asked: subprocess.CompletedProcess[str]) -> Program:
    # They say `postgres (PostgreSQL) 18.4` and `Valkey server v=9.1.2 sha=…`.
    found = re.search(r"^(\w+)\D*?(\d+(?:\.\d+)*)", asked.stdout)
    if asked.returncode != 0 or not found:
        said = (asked.stderr or asked.stdout).strip()[-400:]
        raise EmbeddedServerError(f"{path} does not run (status {asked.returncode}): {said}; reinstall it")
    return Program(path, found[1].lower(), tuple(int(part) for part in found[2].split(".")))


def _copy_out(path: Path, tree: Path, needs: tuple[str, ...], account: Account) -> Path:
    status = path.stat()
    key = hashlib.sha256(f"{path}:{status.st_size}:{status.st_mtime_ns}".encode()).hexdigest()[:16]
    for root in _shared_folders():
        home = root / f"{path.name}-{key}"
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o755)
            # Someone else's directory of that name is a trap: what lies in it would be run.
            if root.stat().st_uid != os.geteuid() or not account.reaches(root):
                continue
            if not home.exists():
                _copy_tree(tree, home, needs)
        except OSError:
            continue
        if home.stat().st_uid == os.geteuid():
            return home / path.relative_to(tree.parent)
    raise EmbeddedServerError(
        f"{path} cannot be reached by uid {account.uid}, and there is no place to copy it to; "
        "install Framewright outside of a private home or start as an ordinary user"
    )


def _shared_folders() -> Iterator[Path]:
    yield Path(platformdirs.site_cache_dir("framewright", appauthor=False))
    yield Path(tempfile.gettempdir()) / f"framewright-{os.geteuid()}"


def _copy_tree(tree: Path, home: Path, needs: tuple[str, ...]) -> None:
    """Copy `needs` of `tree` (a package) and the libraries beside it to `home`, all or nothing."""
    fresh = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    try:
        for need in (need for need in needs if (tree / need).exists()):
            shutil.copytree(
                tree / need,
                fresh / tree.name / need,
                symlinks=True,
                ignore=shutil.ignore_patterns("*.a", "__pycache__"),
            )
        libraries = tree.with_name(f"{tree.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
        _open_to_all(fresh)
        fresh.rename(home)
    except OSError:
        shutil.rmtree(fresh, ignore_errors=True)
        if not home.exists():
            raise


def _open_to_all(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        Path(parent).chmod(0o755)
        for name in files:
            file = Path(parent, name)
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)


def choose(
    wheel: Iterable[Source], system: Iterable[Source], account: Account, suits: Callable[[Program], bool]
) -> tuple[Program | None, list[str]]:
    """The wheel's program that suits, else the first system one that does; and what was passed over.

    A wheel that is installed and broken raises: starting on another program would hide it.
    """
    passed: list[str] = []
    for source in (*wheel, *system):
        try:
            program = runnable(source, account)
        except EmbeddedServerError as error:
            if source.package is not None:
                raise
            passed.append(error.detail)
            continue
        if suits(program):
            return program, passed
        passed.append(f"{source.path} is {program.family} {'.'.join(map(str, program.version))}")
    return None, passed
