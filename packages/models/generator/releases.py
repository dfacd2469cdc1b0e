"""What a release of the schemas consists of."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from packages.models.generator.errors import GenerationError

Schema: TypeAlias = dict[str, Any]
Files: TypeAlias = Mapping[str, bytes]

DEFAULT_PACKAGE = "@jarvis/data-schemas"
"""The package that publishes them, for files whose `x-generated` block does not say."""

GENERATED_PACKAGE = "packages.models._generated"

VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(?:-[0-9A-Za-z.-]+)?")


@dataclass(frozen=True, slots=True)
class Published:
    """One file of a release and the module made from it.

    Attributes:
        model: Name of its root class.
        essential: Fields without which a document is none. All others may be missing, whatever the
            file says: older documents lack newer fields.
        is_mandatory: Whether a release without it is refused.
    """

    file: str
    module: str
    model: str
    essential: frozenset[str] = frozenset()
    is_mandatory: bool = False
    collection: str | None = None


CONFIG = Published("MCPOptions.json", "mcpconfig", "MCPConfig", is_mandatory=True)

DOCUMENTS = (
    Published(
        "MCPServerDocument.json",
        "mcpserver",
        "MCPServer",
        frozenset({"serverName", "config", "author"}),
        is_mandatory=True,
        collection="mcpservers",
    ),
    Published(
        "Token.json",
        "token",
        "Token",
        frozenset({"userId", "token", "expiresAt"}),
        is_mandatory=True,
        collection="tokens",
    ),
    # Users and groups are only read here, so nothing is asked of them.
    Published("User.json", "user", "User", collection="users"),
    Published("Group.json", "group", "Group", collection="groups"),
    Published(
        "AclEntry.json",
        "aclentry",
        "AclEntry",
        frozenset({"principalType", "resourceType", "resourceId"}),
        collection="aclentries",
    ),
    Published("AccessRole.json", "accessrole", "AccessRole", collection="accessroles"),
    Published(
        "PluginAuth.json",
        "pluginauth",
        "PluginAuth",
        frozenset({"userId", "authField", "value"}),
        collection="pluginauths",
    ),
)

ALL = (CONFIG, *DOCUMENTS)


@dataclass(frozen=True, slots=True)
class ReleaseOrigin:
    """The `x-generated` block of one file."""

    package: str
    version: str
    timestamp: str


def normalised_version(text: str) -> str:
    """Return *text* as `vX.Y.Z`.

    Raises:
        GenerationError: It is no version.
    """
    if VERSION.fullmatch(text.strip()) is None:
        raise GenerationError(f"{text.strip()!r} is no version; expected one like v0.0.31")
    return f"v{text.strip().removeprefix('v')}"


def version_key(version: str) -> tuple[int, int, int, str]:
    """Return what sorts versions; a pre-release does not matter before its release."""
    found = VERSION.fullmatch(version)
    if found is None:
        return (0, 0, 0, version)
    return (int(found[1]), int(found[2]), int(found[3]), version)


def parsed(name: str, content: bytes) -> Schema:
    """Return one published file as an object.

    Raises:
        GenerationError: It is no JSON object.
    """
    try:
        schema = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise GenerationError(f"{name} is not valid JSON") from exc
    if not isinstance(schema, dict):
        raise GenerationError(f"{name} is no JSON object")
    return schema


def origin(name: str, schema: Schema) -> ReleaseOrigin:
    """Return where *schema* comes from.

    Raises:
        GenerationError: The file does not say.
    """
    block = schema.get("x-generated")
    if not isinstance(block, dict):
        raise GenerationError(
            f"{name} has no x-generated block, so its version is unknown; say it with --version"
        )
    version, timestamp = block.get("version"), block.get("timestamp", "")
    package = block.get("package", DEFAULT_PACKAGE)
    if not (isinstance(version, str) and isinstance(timestamp, str) and isinstance(package, str)):
        raise GenerationError(f"the x-generated block of {name} is malformed")
    return ReleaseOrigin(package, version.removeprefix("v"), timestamp)


def labelled(name: str, content: bytes, version: str) -> bytes:
    """Return a file with an `x-generated` block, which the schema tool itself does not write.

    Raises:
        GenerationError: It is no JSON object.
    """
    schema = parsed(name, content)
    if "x-generated" in schema:
        return content
    schema["x-generated"] = {
        "package": DEFAULT_PACKAGE,
        "version": version.removeprefix("v"),
        "timestamp": "",
    }
    return json.dumps(schema, indent=2, ensure_ascii=False).encode() + b"\n"


def require_version(name: str, content: bytes, version: str) -> None:
    """Check that a file belongs to *version*.

    Raises:
        GenerationError: It belongs to another release, or does not say.
    """
    found = origin(name, parsed(name, content)).version
    if found != version.removeprefix("v"):
        raise GenerationError(f"{name} is of version {found}, not of {version}; nothing written")
