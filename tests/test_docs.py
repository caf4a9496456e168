"""The documentation says what is there: a setting, error code, endpoint, engine or move that it lacks fails here."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from pathlib import Path

import docs_tables
import pytest

from framewright.cli.parser import parser
from framewright.jobs import JOB_MOVES, STEP_MOVES, TERMINAL_EVENTS, Outcome, Status
from framewright.settings import Settings, variable
from workers.engines.registry import ENGINES

ROOT = docs_tables.ROOT
DOCS = docs_tables.DOCS
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *docs_tables.pages()]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
_FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def text(name: str) -> str:
    return (DOCS / name).read_text()


@every_page
def test_tables_made_from_the_code_are_up_to_date(page: Path) -> None:
    assert page.read_text() == docs_tables.fresh(page.read_text()), "run: python tests/docs_tables.py"


def test_every_setting_has_its_row() -> None:
    for name in Settings.model_fields:
        assert f"| `{variable(name)}` |" in text("operate.md")


def test_every_error_code_has_its_row_with_its_status() -> None:
    from api.app import STATUSES

    for kind, status in STATUSES.items():
        assert f"| `{kind.code}` | {status} |" in text("operate.md")


def test_every_way_an_attempt_or_a_job_can_end_is_explained() -> None:
    for word in (*Outcome, "poison", "expired", *Status, *TERMINAL_EVENTS):
        assert f"\n| `{word}` |" in text("states.md")


def test_every_endpoint_is_in_the_table_and_has_a_section() -> None:
    from api.main import app

    page = text("api.md")
    sections = "\n".join(re.findall(r"^#### .*$", page, re.MULTILINE))
    found = {(verb.upper(), path) for path, verbs in app.openapi()["paths"].items() for verb in verbs}
    assert found
    for verb, path in sorted(found):
        assert f"| `{verb} {path}` |" in page
        assert f"`{verb} {path}`" in sections, f"no section in docs/api.md names {verb} {path}"
    named = set(re.findall(r"`(GET|POST|PUT|PATCH|DELETE|HEAD) (/[^`\s]*)`", sections))
    assert named <= found, "docs/api.md names endpoints that are not there"


def test_every_engine_and_metric_is_named() -> None:
    for engine in ENGINES:
        assert f"`{engine}`" in text("architecture.md")
    source = (ROOT / "api" / "metrics.py").read_text()
    metrics = set(re.findall(r'"(framewright_[a-z_]+)"', source))
    assert metrics
    for metric in metrics:
        assert re.search(rf"^\| `{metric}(_total)?` \|", text("operate.md"), re.MULTILINE), metric


@pytest.mark.parametrize(("noun", "moves"), [("job", JOB_MOVES), ("step", STEP_MOVES)])
def test_the_diagram_shows_exactly_the_moves_of_the_table(noun: str, moves: dict[str, frozenset[str]]) -> None:
    drawn = set(re.findall(rf"^ *{noun}_(\w+) --> {noun}_(\w+)", text("states.md"), re.MULTILINE))
    assert drawn == {(str(before), str(after)) for before, onward in moves.items() for after in onward}
    ends = set(re.findall(rf"^ *{noun}_(\w+) --> \[\*\]", text("states.md"), re.MULTILINE))
    assert ends == {str(state) for state, onward in moves.items() if not onward}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    prose = _FENCED.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", there.read_text()), re.MULTILINE)
            assert anchor in {_anchor(heading) for heading in headings}, target


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@every_page
def test_files_that_are_named_exist(page: Path) -> None:
    roots = "framewright|api|workers|migrations|deploy|tests|docs"
    for name in re.findall(rf"`((?:{roots})/[\w./-]*)`", _FENCED.sub("", page.read_text())):
        assert (ROOT / name).exists(), name


@every_page
def test_make_targets_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name in re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.MULTILINE):
        assert name in targets, name


@every_page
def test_commands_that_are_shown_are_understood(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = re.findall(r"^(framewright [^\n|>]*)", page.read_text(), re.MULTILINE)
    named = re.findall(r"`(framewright [^`]*)`", _FENCED.sub("", page.read_text()))
    for line in shown + named:
        with suppress(SystemExit):
            parser().parse_args(shlex.split(line, comments=True)[1:])
        said = capsys.readouterr().err
        # Prose may name a command without its arguments.
        assert not said or (line in named and "are required" in said), f"not understood: {line}"


def test_the_decisions_are_listed_and_complete() -> None:
    index = text("adr/README.md")
    decisions = sorted(path for path in (DOCS / "adr").glob("0*.md"))
    assert [path.name[:4] for path in decisions] == [f"{n:04}" for n in range(1, len(decisions) + 1)]
    for path in decisions:
        page = path.read_text()
        assert f"]({path.name})" in index
        for part in ("What pressed us.", "What we chose.", "What we gave up.", "Files that obey it."):
            assert f"**{part}**" in page, (path.name, part)


def test_the_changelog_has_this_version() -> None:
    import framewright

    assert f"## [{framewright.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_readme_shows_the_two_commands_and_both_examples() -> None:
    page = (ROOT / "README.md").read_text()
    for part in ("make demo", "make test", "```mermaid", "curl ", "/api/v1/ws"):
        assert part in page
