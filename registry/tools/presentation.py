"""Presentation: the tool object for clients, from definition and overrides. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from registry.core.json import JsonObject, dump_text, load_text, members
from registry.tools.metadata import cautious_hints, hints_of, known, said_in


@dataclass(frozen=True, slots=True)
class Overrides:
    """Overrides: what people changed of a tool. They survive every sync.

    Attributes:
        display_name: Shown as `title`.
        description: Shown as `description`.
        metadata: The metadata that they set, unchanged.
        tags: Their tags. Clients get none of them.
    """

    display_name: str | None = None
    description: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    tags: tuple[str, ...] = ()

    @property
    def for_clients(self) -> "Overrides":
        """Return the overrides that are visible to clients."""
        return replace(self, tags=())


NO_OVERRIDES = Overrides()
OVERRIDE_FIELDS = frozenset({"display_name", "description_override", "tool_metadata", "tags"})
"""Members of a row that hold them."""


def overrides_in(row: Mapping[str, Any]) -> Overrides:
    """Return the overrides in the stored *row* of a tool, as far as it was read."""
    if OVERRIDE_FIELDS.isdisjoint(row):
        return NO_OVERRIDES
    tags = row.get("tags")
    return Overrides(
        row.get("display_name"),
        row.get("description_override"),
        members(row.get("tool_metadata")),
        tuple(tags) if isinstance(tags, list | tuple) else (),
    )


def presented(definition: str, overrides: Overrides, offered: str | None = None) -> str | None:
    """Return the JSON text of the tool object for clients; None for the upstream's own.

    What the upstream or a name only claims is not added: a client may act on an annotation without
    confirmation. A person's values are: an upstream's `readOnlyHint` would otherwise hide from
    clients that a tool is destructive. A claim of safety that the upstream no longer makes is
    withdrawn: a call executes the tool that the upstream has now.

    Args:
        definition: JSON text of the served definition.
        overrides: The changes by people.
        offered: JSON text of the definition that the upstream now offers, if it is another one.
    """
    if overrides == NO_OVERRIDES and offered is None:
        return None
    tool: JsonObject = load_text(definition)
    said = members(tool.get("annotations"))
    hints = hints_of(known(str(tool.get("name")), said, overrides.metadata))
    if offered is not None:
        newest = said_in(offered)
        by_person = hints_of(known(str(tool.get("name")), newest, overrides.metadata))
        hints = {**cautious_hints(said, newest), **hints, **by_person}
    if overrides.display_name is None and overrides.description is None and not hints:
        return None
    if overrides.display_name is not None:
        tool["title"] = overrides.display_name
    if overrides.description is not None:
        tool["description"] = overrides.description
    if hints:
        tool["annotations"] = {**said, **hints}
    return dump_text(tool).decode()
