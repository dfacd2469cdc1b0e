"""Refuse what arrives while this process is on its way out."""

from starlette.types import ASGIApp, Receive, Scope, Send

from registry.core.drain import Drain
from registry.core.errors import ErrorKind
from registry.web.errors import RETRY_AFTER_SECONDS, JsonAnswer

STILL_ANSWERED = ("/health", "/metrics")


class RefuseWhileDraining:
    """Answers 503 once the drain has begun, so that clients come back to another process."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if not self._drain.has_begun or scope["path"].startswith(STILL_ANSWERED):
            await self._app(scope, receive, send)
            return
        answer = JsonAnswer(
            {
                "error": ErrorKind.UNAVAILABLE.value,
                "message": "The registry is being shut down.",
            },
            503,
            {"Retry-After": str(RETRY_AFTER_SECONDS), "Connection": "close"},
        )
        await answer(scope, receive, send)
