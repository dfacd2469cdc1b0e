"""How clients get a tool: as its upstream defines it, but for what people changed. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from registry.core.json import JsonObject, dump_text, load_text, members
from registry.tools.metadata import cautious_hints, hints_of, known, said_in


@dataclass(frozen=True, slots=True)
class Overrides:
    """What people say of a tool instead of its upstream. They survive every sync.

    Attributes:
        display_name: Shown as `title`.
        description: Shown as `description`.
        metadata: What they said of its effects, as they said it.
        tags: What they file it under. Clients get none of it.
    """

    display_name: str | None = None
    description: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    tags: tuple[str, ...] = ()

    @property
    def for_clients(self) -> "Overrides":
        """Return what of it reaches clients."""
        return replace(self, tags=())


NO_OVERRIDES = Overrides()


def overrides_in(row: Mapping[str, Any]) -> Overrides:
    """Return what the stored *row* of a tool says of them, as far as it was read."""
    tags = row.get("tags")
    return Overrides(
        row.get("display_name"),
        row.get("description_override"),
        members(row.get("tool_metadata")),
        tuple(tags) if isinstance(tags, list | tuple) else (),
    )


def presented(definition: str, overrides: Overrides, offered: str | None = None) -> str | None:
    """Return the JSON text of the tool object that clients get; None for the upstream's own.

    What the upstream or a name only claims is not added: a client may act on an annotation
    without asking anybody. What follows from a person's word is: an upstream's `readOnlyHint`
    would have clients disregard that a tool is destructive. A claim of safety that the upstream
    makes no longer is taken back: the tool that is called is the one that it has now.

    Args:
        definition: JSON text of the definition that is served.
        overrides: What people changed.
        offered: JSON text of the definition that the upstream offers now, where that is not the
            one that is served.
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
