"""Names derived from a tool's own name. Pure."""

import re

DELIMITER = "_mcp_"
"""Between tool and server in names that jarvis-api builds and reads."""

_UNCLEAN = re.compile(r"[^a-zA-Z0-9_.-]")


def function_name(tool: str, server_name: str) -> str:
    """Return the key of `toolFunctions`, as jarvis-api builds it: `<tool>_mcp_<server>`."""
    return f"{tool}{DELIMITER}{normalized_server_name(server_name)}"


def normalized_server_name(server_name: str) -> str:
    """Return *server_name* with every character outside `[a-zA-Z0-9_.-]` made `_`.

    A name without any other character becomes `server_<number>`, by the same hash as in
    jarvis-api: names of another script must not all become one.
    """
    if server_name and not _UNCLEAN.search(server_name):
        return server_name
    return _UNCLEAN.sub("_", server_name).strip("_") or f"server_{_number(server_name)}"


def _number(text: str) -> int:
    """Return the hash of JavaScript code that keeps 32 bits: `h = (h << 5) - h + unit`."""
    found = 0
    units = text.encode("utf-16-le", "surrogatepass")
    for low, high in zip(units[::2], units[1::2], strict=True):
        found = (found * 31 + low + (high << 8)) & 0xFFFFFFFF
    return 0x1_0000_0000 - found if found & 0x8000_0000 else found
