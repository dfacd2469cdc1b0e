"""Users' authorizations and access tokens, as tests say they are."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from packages.database.errors import DatabaseUnavailable
from registry.auth.identity import UserContext
from registry.oauth.values import AuthorizationState, OAuthServer


@dataclass
class FakeAuthorizations:
    """Implements `registry.oauth.ports.AuthorizationStates`.

    Attributes:
        known: By user and server id.
        is_away: Whether it fails as a database does that is away.
        asked: The servers of each question.
    """

    known: Mapping[tuple[str, str], AuthorizationState]
    is_away: bool = False
    asked: list[list[OAuthServer]] = field(default_factory=list)

    async def states(
        self, user: UserContext, servers: Collection[OAuthServer]
    ) -> Mapping[str, AuthorizationState]:
        """Answer as told; who is not known has not authorised."""
        self.asked.append([*servers])
        if self.is_away:
            raise DatabaseUnavailable
        nothing = AuthorizationState()
        return {one.id: self.known.get((user.user_id, one.id), nothing) for one in servers}
