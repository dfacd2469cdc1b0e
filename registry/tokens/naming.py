"""Mapping of token types and identifiers between our API and jarvis-api's stored form. Pure.

jarvis-api finds the OAuth tokens of a server by `mcp_oauth` and `mcp:<server>`, its refresh tokens
by `mcp_oauth_refresh` and `mcp:<server>:refresh`. A token whose metadata names a server is stored
under these; the caller's own identifier is kept beside them. All others are unchanged.
"""

from collections.abc import Mapping

from registry.tokens.values import STORED_TYPES, StoredKey, TokenRecord, TokenType

MCP_ACCESS = "mcp_oauth"
MCP_REFRESH = "mcp_oauth_refresh"
MCP_CLIENT = "mcp_oauth_client"
MCP_TYPES = frozenset({MCP_ACCESS, MCP_REFRESH, MCP_CLIENT})
PREFIX = "mcp:"
REFRESH_SUFFIX = ":refresh"
CLIENT_SUFFIX = ":client"
SHOWN_REFRESH_SUFFIX = "_refresh"


def stored_types(kind: TokenType | None = None) -> list[str]:
    """Return the stored spellings of *kind*, or of all known kinds."""
    return [stored for stored, known in STORED_TYPES.items() if kind in {None, known}]


def stored_key(kind: TokenType, identifier: str, metadata: Mapping[str, object]) -> StoredKey:
    """Return the stored key of a token with the caller's *identifier*."""
    server = metadata.get("server_name")
    if isinstance(server, str) and server:
        if kind is TokenType.OAUTH_ACCESS:
            return StoredKey(MCP_ACCESS, access_identifier(server), identifier)
        if kind is TokenType.OAUTH_REFRESH:
            return StoredKey(MCP_REFRESH, refresh_identifier(server), identifier)
    return StoredKey(kind.value, identifier)


def access_identifier(server: str) -> str:
    """Return the stored identifier of a server's access token."""
    return PREFIX + server


def refresh_identifier(server: str) -> str:
    """Return the stored identifier of a server's refresh token."""
    return PREFIX + server + REFRESH_SUFFIX


def client_identifier(server: str) -> str:
    """Return the stored identifier of the client with which a server's tokens were obtained."""
    return PREFIX + server + CLIENT_SUFFIX


def server_of(key: StoredKey) -> str | None:
    """Return the server's name in a stored identifier, or None."""
    match key.stored_type:
        case "mcp_oauth":
            suffix = ""
        case "mcp_oauth_refresh":
            suffix = REFRESH_SUFFIX
        case _:
            return None
    name = key.identifier.removeprefix(PREFIX)
    if name == key.identifier or not name.endswith(suffix):
        return None
    return name.removesuffix(suffix) or None


def shown_identifier(key: StoredKey) -> str:
    """Return the token's identifier for callers: their own, or one derived from the server."""
    if key.given_identifier is not None:
        return key.given_identifier
    server = server_of(key)
    if server is None:
        return key.identifier
    return server + SHOWN_REFRESH_SUFFIX if key.stored_type == MCP_REFRESH else server


def refresh_key_of(access: StoredKey) -> StoredKey:
    """Return the key for a new refresh token of an access token."""
    shown = shown_identifier(access) + SHOWN_REFRESH_SUFFIX
    server = server_of(access)
    if server is None:
        return StoredKey(TokenType.OAUTH_REFRESH.value, shown)
    return StoredKey(MCP_REFRESH, refresh_identifier(server), shown)


def access_key_of(refresh: TokenRecord) -> StoredKey:
    """Return the key of a refresh token's access token, which may have been swept."""
    if refresh.access_token is not None:
        return refresh.access_token[0]
    shown = shown_identifier(refresh.key).removesuffix(SHOWN_REFRESH_SUFFIX)
    server = server_of(refresh.key)
    if server is None:
        return StoredKey(TokenType.OAUTH_ACCESS.value, shown)
    return StoredKey(MCP_ACCESS, access_identifier(server), shown)
