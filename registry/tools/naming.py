"""Names derived from a tool's own name. Pure."""

import re

DELIMITER = "_mcp_"
"""Between tool and server in names that jarvis-api builds and reads."""

_UNCLEAN = re.compile(r"[^a-zA-Z0-9_.-]")


def function_name(tool: str, server_name: str) -> str:
    """Return the key of `toolFunctions`, as jarvis-api builds it: `<tool>_mcp_<server>`."""
    return f"{tool}{DELIMITER}{normalized_server_name(server_name)}"


def normalized_server_name(server_name: str) -> str:
    """Return *server_name* with every character outside `[a-zA-Z0-9_.-]` made `_`."""
    if not _UNCLEAN.search(server_name):
        return server_name
    return _UNCLEAN.sub("_", server_name).strip("_") or "server"
