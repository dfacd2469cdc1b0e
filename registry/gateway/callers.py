"""Who is being served, where the gateway itself is the server."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from registry.auth.identity import UserContext
from registry.gateway.client_sessions import ClientSession
from registry.servers.values import Era


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The client of one request, as far as a server may care.

    Attributes:
        session: None in the stateless era, and for clients that began none.
        level: Least severe log messages it wants; None when it did not say.
    """

    user: UserContext
    era: Era
    capabilities: Mapping[str, Any]
    info: Mapping[str, Any]
    session: ClientSession | None = None
    level: str | None = None
