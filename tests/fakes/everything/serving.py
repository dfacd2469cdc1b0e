"""The everything server on a socket of this process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.fakes.everything.server import everything_app
from tests.fakes.everything.state import State
from tests.gateway.serving import serve


@dataclass(frozen=True, slots=True)
class RunningEverything:
    """A running server and what it remembers."""

    url: str
    state: State


@asynccontextmanager
async def serving_everything() -> AsyncIterator[RunningEverything]:
    """Serve it on a free port."""
    state = State()
    async with serve(everything_app(state), lifespan=True) as url:
        yield RunningEverything(f"{url}/mcp", state)
