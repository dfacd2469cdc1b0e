"""The parts of the MCP SDK that the gateway uses: header rules, envelope checks, URI templates.

They import nothing of the SDK, yet to import them the usual way runs the package's own
initialisation first, which loads its client, its server and what those need: 150 modules, a tenth
of the memory of a serving process. So they are loaded without that.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType


@contextmanager
def package_uninitialised(name: str) -> Iterator[None]:
    """Import modules of the package *name* without its initialisation.

    Nothing of it stays in `sys.modules`, so that a later import initialises the package as usual,
    with modules of its own. A package that is loaded already is used as it is.
    """
    spec = find_spec(name)
    if name in sys.modules or spec is None:
        yield
        return
    package = ModuleType(name)
    package.__path__ = spec.submodule_search_locations or []
    sys.modules[name] = package
    try:
        yield
    finally:
        for module in [each for each in sys.modules if each.partition(".")[0] == name]:
            del sys.modules[module]


with package_uninitialised("mcp"):
    from mcp.shared.inbound import (
        ERROR_CODE_HTTP_STATUS,
        NAME_BEARING_METHODS,
        InboundLadderRejection,
        classify_inbound_request,
        encode_header_value,
        find_invalid_x_mcp_header,
        mcp_param_headers,
        unsupported_protocol_version_rejection,
        validate_mcp_param_headers,
        x_mcp_header_map,
    )
    from mcp.shared.uri_template import UriTemplate

__all__ = [
    "ERROR_CODE_HTTP_STATUS",
    "NAME_BEARING_METHODS",
    "InboundLadderRejection",
    "UriTemplate",
    "classify_inbound_request",
    "encode_header_value",
    "find_invalid_x_mcp_header",
    "mcp_param_headers",
    "unsupported_protocol_version_rejection",
    "validate_mcp_param_headers",
    "x_mcp_header_map",
]
