"""Which arguments of a tool are mirrored in `Mcp-Param-*` headers. Pure."""

from typing import Any

from registry.core.json import JsonObject, members
from registry.core.schema_bounds import MAX_MIRRORED
from registry.upstream.sdk import find_invalid_x_mcp_header, x_mcp_header_map


def mirrored_part(schema: object) -> JsonObject | None:
    """Return the smallest schema that mirrors the same `Mcp-Param-*` headers; None for none.

    A schema with invalid annotations counts as one without: clients send no headers for it.

    Raises:
        ValueError: It mirrors more than `MAX_MIRRORED` arguments.
    """
    if find_invalid_x_mcp_header(schema) is not None:
        return None
    mirrored = x_mcp_header_map(schema)
    if len(mirrored) > MAX_MIRRORED:
        raise ValueError(f"More than {MAX_MIRRORED} arguments are mirrored in headers.")
    part: dict[str, Any] = {}
    for path, token in mirrored.items():
        own, copied = members(schema), part
        for name in path:
            own = members(members(own.get("properties"))[name])
            copied = copied.setdefault("properties", {}).setdefault(name, {})
        copied |= {"type": own["type"], "x-mcp-header": token}
    return part or None
