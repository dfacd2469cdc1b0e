"""Consistency check of all tools in a live database, whichever program wrote them."""

import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from registry.core.json import canonical_json, load_text
from registry.tools.exposure import is_served
from registry.tools.governance.repository import GovernedTools, ProjectedTools
from registry.tools.lifecycle import STATES
from registry.tools.presentation import presented
from registry.tools.values import StoredTool


@dataclass(frozen=True, slots=True)
class ToolInconsistency:
    """An inconsistency.

    Attributes:
        subject: Id of the tool, or of the server.
        reason: Completes a sentence that begins with the subject.
    """

    subject: str
    reason: str


class ToolVerifier:
    """Reads all tools and their servers, and writes nothing.

    Attributes:
        tools: Number of tools checked so far.
        servers: Number of servers checked so far.
    """

    def __init__(self, governed: GovernedTools) -> None:
        self._governed = governed
        self.tools = 0
        self.servers = 0

    async def problems(self) -> AsyncIterator[ToolInconsistency]:
        """Yield the inconsistencies.

        Raises:
            DatabaseUnavailable: The database is unavailable.
        """
        served: dict[str, list[str]] = {}
        async for tool in self._governed.every():
            self.tools += 1
            names = served.setdefault(tool.owner_id, [])
            if is_served(*tool.state):
                names.append(tool.name)
            for problem in problems_of(tool):
                yield ToolInconsistency(tool.id, f"{tool.name}: {problem}")
        known = set()
        async for owner in self._governed.owners():
            self.servers += 1
            known.add(owner.id)
            if owner.id in served:
                for problem in _projection_problems(owner, served[owner.id]):
                    yield ToolInconsistency(owner.id, f"{owner.name}: {problem}")
        for owner_id in served.keys() - known:
            yield ToolInconsistency(owner_id, "tools of a server that does not exist")


def problems_of(tool: StoredTool) -> Iterator[str]:
    """Yield the problems of one tool."""
    if tool.state not in STATES:
        yield f"is {tool.registration_state.value} and {tool.exposure_state.value}"
    if (tool.pending_hash is None) is not (tool.pending_definition is None):
        yield "has an incomplete pending definition"
    if tool.is_blocked and is_served(*tool.state):
        yield "is blocked and served"
    try:
        definition = load_text(tool.definition or "")
        shown = presented(tool.definition or "", tool.overrides, tool.offered_definition)
    except (ValueError, RecursionError):
        yield "has a definition that is not a JSON object"
        return
    if hashlib.sha256(canonical_json(definition).encode()).hexdigest() != tool.discovery_hash:
        yield "has a definition that does not match its hash"
    if definition.get("name") != tool.name:
        yield "has a definition with another name"
    if shown != tool.presented:
        yield "is not presented with its overrides"


def _projection_problems(owner: ProjectedTools, served: list[str]) -> Iterator[str]:
    """Yield where the other application reads something else of a server than clients get."""
    if sorted(owner.tools) != sorted(served):
        yield f"{len(served)} tools are served and {len(owner.tools)} are listed in config.tools"
    if owner.num_tools != len(served):
        yield f"numTools is {owner.num_tools}, and {len(served)} tools are served"
