"""Users' authorizations and access tokens, as tests say they are."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from packages.database.errors import DatabaseUnavailable
from registry.auth.identity import UserContext
from registry.oauth.errors import AuthorizationRequiredError, AuthorizationUnavailableError
from registry.oauth.values import (
    AccessToken,
    AuthorizationLink,
    AuthorizationState,
    OAuthServer,
    TokenProblem,
)
from tests.fakes.clock import NOON


@dataclass
class FakeAuthorizations:
    """Implements `registry.oauth.ports.AuthorizationStates`.

    Attributes:
        known: By user and server id.
        is_away: Whether it fails as a database does that is away.
        asked: The servers of each question.
        problems: Why there is no access token, by user and server id.
    """

    known: Mapping[tuple[str, str], AuthorizationState]
    is_away: bool = False
    asked: list[list[OAuthServer]] = field(default_factory=list)
    problems: dict[tuple[str, str], TokenProblem] = field(default_factory=dict)

    async def states(
        self, user: UserContext, servers: Collection[OAuthServer]
    ) -> Mapping[str, AuthorizationState]:
        """Answer as told; who is not known has not authorised."""
        self.asked.append([*servers])
        if self.is_away:
            raise DatabaseUnavailable
        nothing = AuthorizationState()
        return {one.id: self.known.get((user.user_id, one.id), nothing) for one in servers}

    def problem(self, user_id: str, server_id: str) -> TokenProblem | None:
        """Answer as told."""
        return self.problems.get((user_id, server_id))


def access_token(value: str) -> AccessToken:
    """Return a token that does not expire in tests."""
    return AccessToken(value, None, datetime.max.replace(tzinfo=UTC), NOON)


@dataclass
class TokensOfUsers:
    """Implements `registry.oauth.ports.AccessTokens`.

    Attributes:
        known: The tokens of each user, by id; each one that a server refuses is dropped.
        is_away: Whether the authorization server cannot be reached.
        asked: For which server tokens were asked.
    """

    known: dict[str, list[str]] = field(default_factory=dict)
    is_away: bool = False
    asked: list[OAuthServer] = field(default_factory=list)

    def cached(self, user_id: str, server_id: str) -> AccessToken | None:
        """Return none."""
        del user_id, server_id
        return None

    async def get(self, user: UserContext, server: OAuthServer) -> AccessToken:
        """Return the first token of *user*."""
        self.asked.append(server)
        if self.is_away:
            raise AuthorizationUnavailableError(server.title)
        if not self.known.get(user.user_id):
            link = AuthorizationLink("flow", "https://registry.example/start", NOON)
            raise AuthorizationRequiredError(server.title, link)
        return access_token(self.known[user.user_id][0])

    async def renewed(
        self, user: UserContext, server: OAuthServer, rejected: AccessToken
    ) -> AccessToken:
        """Drop *rejected* and return the next token."""
        self.known[user.user_id].remove(rejected.value)
        return await self.get(user, server)

    async def arrived(self, user_id: str, server_id: str, flow_id: str, seconds: float) -> bool:
        """Say whether there is one."""
        del server_id, flow_id, seconds
        return bool(self.known.get(user_id))
