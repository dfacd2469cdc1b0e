"""What tokens in memory cost, without a database."""

import gc
import tracemalloc
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, cast

import pytest
from bson import ObjectId
from typing_extensions import override

from registry.auth.identity import USER_SCOPES, Role, UserContext
from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import SystemClock
from registry.oauth.renewal import Renewal, UsableToken
from registry.oauth.tokens import UpstreamTokens
from tests.oauth.conftest import server_named

USERS = 1_000
MAX_BYTES = 4_000
"""Of each user with a token of 1,000 characters: 40 MB for 10,000."""


class AtOnce(Renewal):
    """Finds a token for everybody, without a database.

    Attributes:
        asked: How often it was asked.
    """

    def __init__(self) -> None:
        self.asked = 0

    @override
    async def usable(self, *given: Any, **named: Any) -> UsableToken | None:
        self.asked += 1
        hour = timedelta(hours=1)
        rows = frozenset(str(ObjectId()) for _ in range(3))
        return UsableToken(
            f"{self.asked:01000}",
            str(ObjectId()),
            hour,
            hour,
            scopes=frozenset({"read", "write"}),
            row_ids=rows,
            is_renewable=True,
        )


@pytest.fixture
async def background() -> AsyncIterator[BackgroundTasks]:
    background = BackgroundTasks()
    yield background
    await background.close()


async def test_a_thousand_users_tokens_take_four_megabytes(background: BackgroundTasks) -> None:
    renewal, server, nothing = AtOnce(), server_named(), cast("Any", None)
    tokens = UpstreamTokens(
        nothing,
        nothing,
        renewal,
        nothing,
        nothing,
        nothing,
        background,
        clock=SystemClock(),
        sign=None,
        issuer="https://registry.example.com",
    )
    user_ids = [str(ObjectId()) for _ in range(USERS)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for user_id in user_ids:
            await tokens.get(UserContext(user_id, user_id, Role.USER, USER_SCOPES), server)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert taken / USERS < MAX_BYTES
    assert all(tokens.cached(user_id, server.id) for user_id in user_ids)
    assert renewal.asked == USERS
