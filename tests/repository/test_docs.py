"""The documentation names everything that exists, and nothing that does not."""

import ast
import re

import pytest

from registry.core.metrics import Metrics
from scripts.generate_docs import lifecycle_page, settings_page
from tests.repository.files import ROOT

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()

LOG_METHODS = frozenset({"debug", "info", "warning", "error", "exception", "critical"})
OF_THE_RUNTIME = ("process_", "python_")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")
PATH = re.compile(r"`((?:registry|packages|scripts|deploy|tests)/[\w./-]+)`")


def test_the_settings_page_is_what_the_code_says() -> None:
    committed = (ROOT / "docs" / "settings.md").read_text()

    assert committed == settings_page(), "run `make docs`"


def test_the_page_of_a_tools_life_is_what_the_table_says() -> None:
    committed = (ROOT / "docs" / "tool-lifecycle.md").read_text()

    assert committed == lifecycle_page(), "run `make docs`"


@pytest.mark.requirement("R-330")
def test_every_metric_is_listed() -> None:
    exposed = {
        family.name
        for family in Metrics().registry.collect()
        if not family.name.startswith(OF_THE_RUNTIME)
    }

    listed = set(re.findall(r"^\| `(\w+)` \|", _section(OPERATIONS, "Metrics"), re.MULTILINE))

    assert listed == exposed


@pytest.mark.requirement("R-331")
def test_every_log_event_is_listed(texts: dict[str, str]) -> None:
    section = _section(OPERATIONS, "Logs")
    listed = set(re.findall(r"`(\w+)`", section))
    logged = {
        event
        for name, text in texts.items()
        if name.startswith(("registry/", "packages/")) and name.endswith(".py")
        for event in _events(text)
    }

    assert {event for event in logged if not _is_listed(event, listed)} == set()


@pytest.mark.parametrize(
    "command",
    [
        "token create",
        "token list",
        "token revoke",
        "audit verify",
        "tools verify",
        "servers import",
        "doctor",
        "serve",
        "serve --local",
        *(f"creds {name}" for name in ("check", "rotate", "new-key", "remove-old-keys")),
    ],
)
def test_the_commands_for_operators_are_explained(command: str) -> None:
    assert f"registry {command}" in OPERATIONS


def test_every_package_is_in_the_map() -> None:
    packages = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for folder in ("registry", "packages")
        for path in (ROOT / folder).glob("*/__init__.py")
        if any(other.name != "__init__.py" for other in path.parent.glob("*.py"))
    }

    listed = set(re.findall(r"^\| `([\w.]+)` \|", ARCHITECTURE, re.MULTILINE))

    assert packages - listed == set()


def test_paths_in_the_architecture_page_exist_unless_they_come_later() -> None:
    present = [line for line in ARCHITECTURE.splitlines() if "later" not in line]
    named = {
        # The first column says what the source documents call it.
        path
        for line in present
        for path in PATH.findall(line.partition(" | ")[2] or line)
    }

    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_the_places_where_things_happen_exist() -> None:
    section = _section(ARCHITECTURE, "Where things happen")
    rows = re.findall(r"^\| .+\? \| `([\w.]+)` \| `([\w/.]+)` \|", section, re.MULTILINE)

    missing = [
        (name, path)
        for symbol, path in rows
        for name in symbol.split(".")
        if not re.search(rf"(?m)^ *(?:async )?(?:def|class) {name}\b|^{name}\b", _text(path))
    ]

    assert missing == []
    assert len(rows) > 20


def test_links_between_documents_lead_somewhere(texts: dict[str, str]) -> None:
    broken = [
        f"{name}: {target}"
        for name, text in texts.items()
        if name.endswith(".md")
        for target in LINK.findall(text)
        if "://" not in target and not (ROOT / name).parent.joinpath(target).exists()
    ]

    assert broken == []


def test_each_decision_has_a_number_of_its_own() -> None:
    # Gaps are fine: branches that are written at the same time take their numbers beforehand.
    numbers = sorted(path.name[:5] for path in (ROOT / "docs" / "decisions").glob("*.md"))

    assert all(re.fullmatch(r"[0-9]{4}-", number) for number in numbers)
    assert len(set(numbers)) == len(numbers)


def test_the_code_refers_to_pages_that_exist(texts: dict[str, str]) -> None:
    missing = {
        f"{name}: {page}"
        for name, text in texts.items()
        if name.endswith((".py", ".toml", ".yml", ".sh")) or name == "Makefile"
        for page in re.findall(r"\bdocs/[\w/-]+\.md\b", text)
        if not (ROOT / page).exists()
    }

    assert missing == set()


def test_the_changelog_follows_its_format() -> None:
    headings = re.findall(
        r"^### (.*)$", (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1], re.MULTILINE
    )
    order = ["Security", "Removed", "Deprecated", "Added", "Changed", "Fixed"]

    assert headings == [heading for heading in order if heading in headings]


def _text(path: str) -> str:
    return (ROOT / path).read_text()


def _section(page: str, title: str) -> str:
    return page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def _events(source: str) -> set[str]:
    """Return the events that a module logs; `*_x` for a name that ends in x."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="log"), attr=method), args=[first, *_]
            ) if method in LOG_METHODS:
                found |= _event(first)
            case _:
                pass
    return found


def _event(argument: ast.expr) -> set[str]:
    match argument:
        case ast.Constant(value=str(event)):
            return {event}
        case ast.Call(args=[ast.Constant(value=str(ending))]):
            return {f"*_{ending}"}
        case _:
            return {ast.unparse(argument)}


def _is_listed(event: str, listed: set[str]) -> bool:
    if event.startswith("*"):
        return any(name.endswith(event[1:]) for name in listed)
    return event in listed
