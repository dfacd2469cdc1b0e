"""Resolution: which tools a toolset serves to a caller, under which names. Pure.

A toolset never widens: it takes from what the caller may use anyway. A tool has its name of the
combined server (`<server>__<tool>`), which depends on nothing else in the toolset, unless an entry
names it otherwise. What an entry names exactly, it alone serves: wildcards, tags and metadata take
only the rest, so that no preset argument can be avoided through another entry.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import orjson

from registry.access.policies.decisions import fits
from registry.access.toolsets.presets import presented, preset_problem
from registry.access.toolsets.values import Toolset, ToolsetEntry
from registry.tools.metadata import facet
from registry.tools.naming import SEPARATOR, public_suffix

GONE = "the server does not exist, or is not available to you"
NO_TOOL = "the server has no such tool that is available to you"
TAKEN = "another tool of the toolset has the name {}"
OTHER_VERSION = "version {} is pinned, and version {} is served"


class Tool(Protocol):
    """A tool that a caller may use."""

    @property
    def name(self) -> str:
        """Its name on the server."""

    @property
    def wire(self) -> bytes:
        """The text of its object, as served."""

    @property
    def facets(self) -> tuple[str, ...]:
        """Its known effects, as texts `flag:value`."""

    @property
    def tags(self) -> tuple[str, ...]:
        """Its tags."""

    @property
    def version(self) -> int:
        """The number of its served version."""


T = TypeVar("T", bound=Tool)


@dataclass(frozen=True, slots=True)
class Offered(Generic[T]):
    """A server that a caller may use, with the tools that they may use.

    Attributes:
        prefix: The first half of the names of its tools on the combined server.
    """

    server_id: str
    prefix: str
    tools: Mapping[str, T]


@dataclass(frozen=True, slots=True)
class Served(Generic[T]):
    """A tool as a toolset serves it.

    Attributes:
        name: What clients call it.
        wire: The text of its object, as clients see it.
        presets: Arguments that are preset, and hidden.
        entry: Number of the entry that takes it.
    """

    name: str
    server_id: str
    tool: T
    wire: bytes
    presets: Mapping[str, Any]
    entry: int


class Presentations:
    """Cache of tools' texts as toolsets serve them: few definitions change at a time.

    Args:
        most: Maximum number of cached texts.
    """

    def __init__(self, most: int = 20_000) -> None:
        self._most = most
        self._known: dict[tuple[ToolsetEntry, bytes, str], bytes | str] = {}

    def of(self, entry: ToolsetEntry, tool: Tool, name: str) -> bytes | str:
        """Return the text of a tool's object as an entry presents it; a `str` says why not."""
        if entry.version is not None and entry.version != tool.version:
            return OTHER_VERSION.format(entry.version, tool.version)
        key = (entry, tool.wire, name)
        found = self._known.get(key)
        if found is None:
            found = _presented(entry, tool, name)
            if len(self._known) >= self._most:
                self._known.clear()
            self._known[key] = found
        return found


def _presented(entry: ToolsetEntry, tool: Tool, name: str) -> bytes | str:
    try:
        presets = presets_of(entry)
        problem = preset_problem(orjson.loads(tool.wire), presets) if presets else None
        return problem or presented(tool.wire, entry, name, frozenset(presets))
    except (ValueError, RecursionError):
        return "the tool's definition, or the preset arguments, cannot be read"


def presets_of(entry: ToolsetEntry) -> Mapping[str, Any]:
    """Return the preset arguments of an entry.

    Raises:
        ValueError: They cannot be read.
    """
    if not entry.arguments:
        return {}
    presets = orjson.loads(entry.arguments)
    if not isinstance(presets, dict):
        raise ValueError("Preset arguments are an object.")  # noqa: TRY004 - its text is at fault
    return presets


def resolve(
    toolset: Toolset, servers: Sequence[Offered[T]], presentations: Presentations
) -> tuple[dict[str, Served[T]], dict[int, tuple[str, ...]]]:
    """Return the served tools by name, in that order, and the problems by the entry's number.

    Args:
        toolset: The toolset.
        servers: What the caller may use anyway.
        presentations: Caches what clients see.
    """
    resolving = _Resolving[T](presentations)
    by_id = {server.server_id: server for server in servers}
    entries = list(enumerate(toolset.entries))
    for number, entry in entries:
        if entry.is_exact:
            resolving.take_one(number, entry, by_id.get(entry.server_id or ""))
    for number, entry in entries:
        if entry.is_exact:
            continue
        if entry.server_id is None:
            resolving.take_all(number, entry, servers)
        elif entry.server_id in by_id:
            resolving.take_all(number, entry, [by_id[entry.server_id]])
        else:
            resolving.note(number, GONE)
    served = {name: resolving.served[name] for name in sorted(resolving.served)}
    return served, {number: tuple(found) for number, found in resolving.problems.items()}


class _Resolving(Generic[T]):
    """What is known of a toolset so far."""

    def __init__(self, presentations: Presentations) -> None:
        self._presentations = presentations
        self._named: set[tuple[str, str]] = set()
        self.served: dict[str, Served[T]] = {}
        self.problems: dict[int, list[str]] = {}

    def note(self, number: int, problem: str) -> None:
        """Note why an entry, or a tool of it, is withheld."""
        self.problems.setdefault(number, []).append(problem)

    def take_one(self, number: int, entry: ToolsetEntry, server: Offered[T] | None) -> None:
        """Serve the tool that an entry names."""
        # Withheld or not: no other entry may serve it without what this one presets.
        self._named.add((entry.server_id or "", entry.tool or ""))
        tool = None if server is None else server.tools.get(entry.tool or "")
        if server is None or tool is None:
            self.note(number, GONE if server is None else NO_TOOL)
        else:
            self._add(number, entry, server, tool)

    def take_all(self, number: int, entry: ToolsetEntry, servers: Sequence[Offered[T]]) -> None:
        """Serve the tools that an entry matches, and that no other serves."""
        for server in servers:
            for tool in _taken(entry, server.tools.values()):
                key = (server.server_id, tool.name)
                if key not in self._named:
                    self._named.add(key)
                    self._add(number, entry, server, tool)

    def _add(self, number: int, entry: ToolsetEntry, server: Offered[T], tool: T) -> None:
        suffix = public_suffix(server.prefix, tool.name)
        name = entry.name or f"{server.prefix}{SEPARATOR}{suffix}"
        if name in self.served:
            self.note(number, TAKEN.format(name))
            return
        found = self._presentations.of(entry, tool, name)
        if isinstance(found, str):
            self.note(number, f"{tool.name}: {found}")
            return
        presets = presets_of(entry)
        self.served[name] = Served(name, server.server_id, tool, found, presets, number)


def _taken(entry: ToolsetEntry, tools: Iterable[T]) -> Iterable[T]:
    wanted = {facet(flag, value) for flag, value in entry.metadata}
    for tool in tools:
        if entry.tool is not None and not fits(entry.tool, tool.name):
            continue
        if entry.tag is not None and entry.tag not in tool.tags:
            continue
        if wanted and not wanted.issubset(tool.facets):
            continue
        yield tool


def _is_other(one: Any, value: Any) -> bool:
    """Whether two JSON values differ; `true` is not 1, as it is in Python."""
    texts = [orjson.dumps(each, option=orjson.OPT_SORT_KEYS) for each in (one, value)]
    return texts[0] != texts[1]


def narrowed(served: Mapping[str, Served[T]], by: Mapping[str, Served[T]]) -> dict[str, Served[T]]:
    """Return the tools of one toolset that another serves too, with the presets of both.

    A tool on whose preset arguments they disagree is left out. The names are those of the first.
    """
    others: dict[tuple[str, str], list[Served[T]]] = {}
    for one in by.values():
        others.setdefault((one.server_id, one.tool.name), []).append(one)
    found: dict[str, Served[T]] = {}
    for name, tool in served.items():
        for other in others.get((tool.server_id, tool.tool.name), ()):
            if any(
                key in tool.presets and _is_other(tool.presets[key], value)
                for key, value in other.presets.items()
            ):
                continue
            presets = {**tool.presets, **other.presets}
            wire = tool.wire
            if presets.keys() != tool.presets.keys():
                wire = presented(wire, ToolsetEntry(), name, frozenset(presets))
            found[name] = Served(name, tool.server_id, tool.tool, wire, presets, tool.entry)
            break
    return found
