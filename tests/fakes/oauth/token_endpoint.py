"""A token endpoint in memory, with refresh tokens that can be used once."""

import asyncio
from dataclasses import replace

from typing_extensions import override

from registry.upstream.oauth.errors import InvalidGrantError, OAuthError
from registry.upstream.oauth.token_endpoint import TokenEndpoint
from registry.upstream.oauth.values import TokenRequest, Tokens


class RotatingTokenEndpoint(TokenEndpoint):
    """Exchanges the refresh token `r0` for `a1` and `r1`, that for `a2` and `r2`, and so on.

    A refresh token that is used again ends them all, as RFC 9700 (4.14.2) demands.

    Attributes:
        answer: Given for each refresh; the tokens' names are filled in.
        is_rotating: Whether each answer has another refresh token.
        failure: Raised in place of an answer, without using anything up.
        open: Answers wait for it.
        asked: The refresh tokens that were received.
        requests: What came with them, and with other requests.
        assertions: Subject tokens that were received.
    """

    def __init__(self) -> None:
        self.answer = Tokens("", None, expires_in=3600)
        self.is_rotating = True
        self.failure: OAuthError | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.asked: list[str] = []
        self.requests: list[TokenRequest] = []
        self.assertions: list[str] = []
        self.valid: set[str] = {"r0"}
        self._issued = 0

    @override
    async def refresh(self, request: TokenRequest, refresh_token: str) -> Tokens:
        self.asked.append(refresh_token)
        self.requests.append(request)
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        if refresh_token not in self.valid:
            self.valid.clear()
            raise InvalidGrantError("It was used before.", "invalid_grant")
        self._issued += 1
        if not self.is_rotating:
            return replace(self.answer, access_token=f"a{self._issued}")
        self.valid = {f"r{self._issued}"}
        return replace(
            self.answer, access_token=f"a{self._issued}", refresh_token=f"r{self._issued}"
        )

    @override
    async def client_credentials(self, request: TokenRequest) -> Tokens:
        self.requests.append(request)
        return await self._other()

    @override
    async def exchange(
        self, request: TokenRequest, *, subject_token: str, subject_token_type: str
    ) -> Tokens:
        self.requests.append(request)
        self.assertions.append(subject_token)
        return await self._other()

    async def _other(self) -> Tokens:
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        self._issued += 1
        return replace(self.answer, access_token=f"own{self._issued}")
