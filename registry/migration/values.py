"""Rows of the two-table layout, and what becomes of each. Pure.

The table `mcpserver` held catalog entries and running workloads alike, a row often being both: it
came from a registry (`from_registry`), and had the `status` of a workload started from it. The
table `tool` held their tools, whichever they were.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast

from registry.core.json import JsonObject, JsonValue, canonical_json
from registry.tools.intake import take
from registry.tools.values import ToolSnapshot

SERVERS = "mcpserver"
TOOLS = "tool"

Row = Mapping[str, object]

DEFAULT_GROUP = "default"
WORKLOAD_STATES = frozenset({"running", "stopped", "error", "starting", "stopping"})
TRANSPORTS = frozenset({"sse", "streamable-http"})
VECTORS = frozenset({"server_embedding", "details_embedding"})
"""Columns that are left: vectors of another model are of no use, and are computed again."""

SLUG_CHARACTERS = 64
SUFFIX_CHARACTERS = 8


class Kind(StrEnum):
    """What a row of servers becomes."""

    CATALOG = "catalog entry"
    SERVER = "server"


class Outcome(StrEnum):
    """What became of a row."""

    IMPORTED = "imported"
    WOULD_IMPORT = "would_import"
    EXISTS = "exists"
    DIFFERS = "differs"
    SKIPPED = "skipped"
    FAILED = "failed"

    @property
    def is_failure(self) -> bool:
        """Whether the row needs attention."""
        return self in {Outcome.DIFFERS, Outcome.FAILED}


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one row, and why.

    Attributes:
        row: Name of the table and id of the row.
        kind: What it became; None for a row of which nothing can become.
        name: Under which it is found now.
        tools: How many of its tools are stored.
        digest: SHA-256 of its content, before and after alike.
    """

    row: str
    kind: Kind | None
    outcome: Outcome
    name: str
    message: str = ""
    tools: int = 0
    digest: str = ""

    def members(self) -> dict[str, object]:
        """Return it as JSON members."""
        return {
            "row": self.row,
            "kind": None if self.kind is None else self.kind.value,
            "outcome": self.outcome.value,
            "name": self.name,
            "message": self.message,
            "tools": self.tools,
            "digest": self.digest,
        }


@dataclass(frozen=True, slots=True)
class OldServer:
    """A row of `mcpserver` with its tools.

    Attributes:
        identifier: What it is matched by: the URL of a remote server, or the package of a
            container.
        url: Where its workload answered, which for a container is the address of a proxy.
        tools: Those that can be stored.
        tool_rows: How many rows of tools it has.
        problems: Why others cannot.
    """

    id: str
    name: str
    is_remote: bool
    identifier: str | None
    url: str | None
    transport: str
    description: str | None
    group: str
    status: str
    is_from_registry: bool
    tools: ToolSnapshot = field(repr=False)
    tool_rows: int = 0
    problems: tuple[str, ...] = ()

    @property
    def package(self) -> str | None:
        """Return the package, if it is a container."""
        return None if self.is_remote else self.identifier

    @property
    def address(self) -> str | None:
        """Return the URL under which it is called."""
        return (self.identifier or self.url) if self.is_remote else self.url

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Return what it becomes: a row can be both."""
        is_workload = self.status in WORKLOAD_STATES
        catalog = (Kind.CATALOG,) if self.is_from_registry or not is_workload else ()
        return (*catalog, Kind.SERVER) if is_workload else catalog

    @property
    def tags(self) -> tuple[str, ...]:
        """Return the group as a tag; the default group is none."""
        return () if self.group == DEFAULT_GROUP else (self.group,)


@dataclass(frozen=True, slots=True)
class Dump:
    """Everything that a dump holds.

    Attributes:
        servers: The rows that can be read, in the order of the dump.
        unusable: Rows of both tables of which nothing can become.
        rows: How many rows each table has.
        digests: SHA-256 of each table's rows, in any order, without vectors.
    """

    servers: tuple[OldServer, ...]
    unusable: tuple[Report, ...]
    rows: Mapping[str, int]
    digests: Mapping[str, str]


def read_rows(server_rows: Sequence[Row], tool_rows: Sequence[Row]) -> Dump:
    """Return what the rows of the two tables say."""
    unusable: list[Report] = []
    by_id: dict[str, Row] = {}
    for number, row in enumerate(server_rows, 1):
        row_id = _text(row.get("id"))
        problem = _problem(row)
        if row_id in by_id:
            problem = "has the id of another row"
        if problem is not None:
            unusable.append(_failed(SERVERS, row_id or f"#{number}", row, problem))
        else:
            by_id[cast("str", row_id)] = row
    tools: dict[str, list[tuple[str, JsonValue]]] = {}
    for number, row in enumerate(tool_rows, 1):
        row_id = _text(row.get("id")) or f"#{number}"
        owner = _text(row.get("mcpserver_id"))
        if owner not in by_id:
            unusable.append(_failed(TOOLS, row_id, row, "belongs to no row of mcpserver"))
            continue
        tools.setdefault(owner, []).append((row_id, _definition(row.get("details"))))
    servers = tuple(_server(row_id, row, tools.get(row_id, [])) for row_id, row in by_id.items())
    return Dump(
        servers,
        tuple(unusable),
        {SERVERS: len(server_rows), TOOLS: len(tool_rows)},
        {SERVERS: rows_digest(server_rows), TOOLS: rows_digest(tool_rows)},
    )


def rows_digest(rows: Iterable[Row]) -> str:
    """Return the SHA-256 of the rows of a table, in any order, without vectors."""
    texts = sorted(json.dumps(_plain(row), sort_keys=True, default=str) for row in rows)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def content_digest(
    address: str | None,
    package: str | None,
    description: str | None,
    definitions: Iterable[str],
) -> str:
    """Return the SHA-256 of what must not be lost of a server: the same before and after.

    Args:
        address: Its URL.
        package: Its package.
        description: Its description.
        definitions: The JSON text of each of its tools.
    """
    tools = sorted(canonical_json(cast("JsonValue", json.loads(text))) for text in definitions)
    content: JsonValue = [address, package, description or None, cast("JsonValue", tools)]
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def names_of(servers: Iterable[OldServer]) -> dict[str, str]:
    """Return the name that each workload gets, by the id of its row; always the same ones.

    Names of the older layout were any text. One that is shared after what is not allowed in names
    was replaced is told apart by the id of its row.
    """
    slugs = {one.id: _slug(one.name) or "server" for one in servers if Kind.SERVER in one.kinds}
    shared = Counter(slug.lower() for slug in slugs.values())
    return {
        row_id: slug if shared[slug.lower()] == 1 else _told_apart(slug, row_id)
        for row_id, slug in slugs.items()
    }


def _told_apart(slug: str, row_id: str) -> str:
    mark = hashlib.sha256(row_id.encode()).hexdigest()[:SUFFIX_CHARACTERS]
    return f"{slug[: SLUG_CHARACTERS - SUFFIX_CHARACTERS - 1]}-{mark}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:SLUG_CHARACTERS].strip("-._")


def _server(row_id: str, row: Row, tools: Sequence[tuple[str, JsonValue]]) -> OldServer:
    snapshot = take([details for _, details in tools])
    is_remote = _flag(row.get("remote"))
    package, url = _text(row.get("package")), _text(row.get("url"))
    identifier = package
    if is_remote:
        # Before it was the URL, the identifier of a remote server was its name.
        identifier = package if package is not None and _is_url(package) else url
    status = (_text(row.get("status")) or "registry").lower()
    transport = (_text(row.get("transport")) or "").lower()
    return OldServer(
        id=row_id,
        name=cast("str", _text(row.get("name"))),
        is_remote=is_remote,
        identifier=identifier,
        url=url,
        transport=transport if transport in TRANSPORTS else "streamable-http",
        description=_text(row.get("description")),
        group=_text(row.get("group")) or DEFAULT_GROUP,
        status=status,
        is_from_registry=_flag(row.get("from_registry")),
        tools=snapshot,
        tool_rows=len(tools),
        problems=tuple(f"{one.name} {one.reason}" for one in snapshot.rejected),
    )


def _problem(row: Row) -> str | None:
    """Return why a row cannot become anything."""
    if _text(row.get("id")) is None:
        return "has no id"
    if _text(row.get("name")) is None:
        return "has no name"
    if _text(row.get("url")) is None and _text(row.get("package")) is None:
        return "has neither URL nor package"
    return None


def _failed(table: str, row_id: str, row: Row, problem: str) -> Report:
    name = _text(row.get("name")) or "-"
    return Report(f"{table} {row_id}", None, Outcome.FAILED, name, problem)


def _definition(details: object) -> JsonValue:
    """Return the tool that a row holds as JSON text, or as JSON."""
    if isinstance(details, str | bytes):
        try:
            details = json.loads(details)
        except (ValueError, RecursionError):
            return None
    if not isinstance(details, dict):
        return None
    # Models of the older program wrote members that a tool does not have as null.
    return cast("JsonObject", {k: v for k, v in details.items() if v is not None})


def _plain(row: Row) -> dict[str, object]:
    return {name: value for name, value in row.items() if name not in VECTORS}


def _text(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _flag(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in {"1", "true", "t", "yes"}
    return bool(value)


def _is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))
