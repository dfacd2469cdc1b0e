"""The registry with an everything server of each kind, each of another user."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from registry.auth.identity import USER_SCOPES, Role, UserContext
from tests.clients.matrix import Upstream
from tests.fakes.everything.serving import RunningEverything, serving_everything
from tests.fakes.rest import Rest, rest_settings, running
from tests.gateway.serving import serve

IS_MODERN = {Upstream.LEGACY: False, Upstream.MODERN: True, Upstream.BOTH: None}


@dataclass(frozen=True, slots=True)
class Registered:
    """A server that one user registered, and nobody else sees.

    Attributes:
        gateway: Base URL of the gateway.
        token: The user's.
    """

    slug: str
    gateway: str
    token: str
    everything: RunningEverything


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def registered(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[Upstream, Registered]]:
    """Return a running registry's servers."""
    settings = rest_settings(mongo_uri, key_files, tmp_path_factory.mktemp("home"))
    async with AsyncExitStack() as stack:
        rest = await stack.enter_async_context(running(settings))
        gateway = await stack.enter_async_context(serve(rest.app))
        yield {upstream: await _register(rest, gateway, upstream, stack) for upstream in Upstream}


async def _register(
    rest: Rest, gateway: str, upstream: Upstream, stack: AsyncExitStack
) -> Registered:
    slug = f"everything-{upstream}"
    user_id = f"{list(Upstream).index(upstream) + 1:024x}"
    user = UserContext(user_id, f"{upstream}-user", Role.USER, USER_SCOPES)
    everything = await stack.enter_async_context(serving_everything(is_modern=IS_MODERN[upstream]))
    await rest.register(user, slug, everything.url)
    return Registered(slug, gateway, rest.token(user), everything)
