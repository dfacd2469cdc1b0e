"""Documents of the database that this program shares with jarvis-api, and of its own collections.

The classes of the shared collections are generated (`scripts/generate_schemas.py`) and loaded on
first use, so that the generator, which lives below this package, can run before they exist.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from packages.models.errors import (
    SchemaMembersError,
    SchemasNotGeneratedError,
    SchemaVersionError,
    UnknownTransportError,
)
from packages.models.version import SCHEMA_VERSION

if TYPE_CHECKING:
    from beanie import PydanticObjectId as Id

    from packages.models._generated import (
        DOCUMENTS,
        AccessRole,
        AclEntry,
        ApiKeyConfig,
        CustomUserVar,
        FunctionDefinition,
        Group,
        MCPConfig,
        MCPServer,
        OAuthConfig,
        OAuthMetadata,
        PluginAuth,
        SSETransport,
        StdioTransport,
        StreamableHTTPTransport,
        Token,
        ToolFunction,
        User,
        WebSocketTransport,
    )
    from packages.models.transport import Transport, narrow

__all__ = [
    "DOCUMENTS",
    "SCHEMA_VERSION",
    "AccessRole",
    "AclEntry",
    "ApiKeyConfig",
    "CustomUserVar",
    "FunctionDefinition",
    "Group",
    "Id",
    "MCPConfig",
    "MCPServer",
    "OAuthConfig",
    "OAuthMetadata",
    "PluginAuth",
    "SSETransport",
    "SchemaMembersError",
    "SchemaVersionError",
    "SchemasNotGeneratedError",
    "StdioTransport",
    "StreamableHTTPTransport",
    "Token",
    "ToolFunction",
    "Transport",
    "UnknownTransportError",
    "User",
    "WebSocketTransport",
    "check_generated",
    "check_schema_version",
    "narrow",
]

GENERATED = "packages.models._generated"


def check_generated() -> None:
    """Check that the generated models exist, without loading them.

    Raises:
        SchemasNotGeneratedError: There are none.
    """
    if not _is_generated():
        raise SchemasNotGeneratedError


def check_schema_version() -> None:
    """Check that the generated models have the expected release and the fields that we write.

    Raises:
        SchemasNotGeneratedError: There are none.
        SchemaVersionError: They come from another release.
        SchemaMembersError: They lack members that are written, or hold them as another type.
    """
    found = str(_load(GENERATED, "__version__"))
    if found != SCHEMA_VERSION:
        raise SchemaVersionError(expected=SCHEMA_VERSION, found=found)
    # Not at the top: it needs Pydantic, without which the generator must run.
    from packages.models.written import check_members  # noqa: PLC0415

    check_members(vars(import_module(GENERATED)), found)


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "Id":
        value = _load("beanie", "PydanticObjectId")
    elif name in {"Transport", "narrow"}:
        value = _load("packages.models.transport", name)
    else:
        value = _load(GENERATED, name)
    globals()[name] = value
    return value


def _load(module: str, name: str) -> object:
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as exc:
        # A folder without __init__.py can still be imported, as an empty namespace package.
        if _is_generated():
            raise
        raise SchemasNotGeneratedError from exc


def _is_generated() -> bool:
    found = find_spec(GENERATED)
    return found is not None and found.origin is not None
