"""Tells sessions that the page which their user was sent to has done its work.

A client of the handshake's era that got error -32042 may wait for
`notifications/elicitation/complete` before it repeats its request (MCP 2025-11-25).
"""

from registry.core.background_tasks import BackgroundTasks
from registry.gateway.errors import AuthorizationRequired
from registry.gateway.notifications.streams import NotificationStreams
from registry.oauth.ports import AccessTokens
from registry.upstream.messages import notification_text

ELICITATION_COMPLETE = "notifications/elicitation/complete"

FOLLOWED_SECONDS = 600.0
"""How long a completion is waited for: as long as a link is valid."""

MAX_FOLLOWED = 50
"""Links that one worker waits for. Clients that are not told repeat their request without it."""


class AuthorizationCompletions:
    """Waits for users to authorise the registry, and tells their sessions.

    Args:
        tokens: Says when a user's access token has come.
        notification_streams: Reach the sessions, in whichever worker.
    """

    def __init__(
        self,
        tokens: AccessTokens,
        notification_streams: NotificationStreams,
        background_tasks: BackgroundTasks,
    ) -> None:
        self._tokens = tokens
        self._notification_streams = notification_streams
        self._background_tasks = background_tasks
        self._followed: set[tuple[str, str]] = set()

    def follow(self, nonce: str, user_id: str, required: AuthorizationRequired) -> None:
        """Tell a session when a user has authorised the registry.

        Args:
            nonce: Of a session with the gateway; the name of one that a server keeps.
            user_id: Of the user.
            required: What they were asked for.
        """
        key = (nonce, required.link.flow_id)
        if key not in self._followed and len(self._followed) < MAX_FOLLOWED:
            self._followed.add(key)
            self._background_tasks.soon(self._tell(key, user_id, required.server_id))

    async def _tell(self, key: tuple[str, str], user_id: str, server_id: str) -> None:
        nonce, flow_id = key
        try:
            if await self._tokens.arrived(user_id, server_id, flow_id, FOLLOWED_SECONDS):
                message = notification_text(ELICITATION_COMPLETE, {"elicitationId": flow_id})
                await self._notification_streams.say(nonce, message)
        finally:
            self._followed.discard(key)
