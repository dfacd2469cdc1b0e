"""The everything server on a socket of this process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.fakes.everything.eras import OneEra
from tests.fakes.everything.server import everything_app
from tests.fakes.everything.state import State
from tests.gateway.serving import serve


@dataclass(frozen=True, slots=True)
class RunningEverything:
    """A running server and what it remembers."""

    url: str
    state: State


@asynccontextmanager
async def serving_everything(
    *, is_modern: bool | None = None, unlisted: frozenset[str] = frozenset()
) -> AsyncIterator[RunningEverything]:
    """Serve it on a free port, in both eras or in one of them."""
    state = State(unlisted=unlisted)
    app = everything_app(state)
    if is_modern is not None:
        app = OneEra(app, is_modern=is_modern)
    async with serve(app, lifespan=True) as url:
        yield RunningEverything(f"{url}/mcp", state)
