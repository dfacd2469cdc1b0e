"""Secrets typed into the API: in no answer, no log line, no metric, and nowhere in the clear."""

import json
from collections.abc import Iterator

import pytest
import structlog
from bson import json_util
from structlog.testing import LogCapture

from registry.auth.identity import UserContext
from tests.fakes.plain_upstream import PlainUpstream
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

SENTINEL = "SENTINEL"
SECRETS = {
    "apiKey": {"key": f"{SENTINEL}-key"},
    "oauth": {
        "client_id": "me",
        "client_secret": f"{SENTINEL}-client",
        "authorization_url": "https://as.example.com/authorize",
        "token_url": "https://as.example.com/token",
    },
    "headers": {"X-Auth-Token": f"{SENTINEL}-header"},
}


@pytest.fixture
def logs() -> Iterator[LogCapture]:
    """Return every event logged, before anything is redacted."""
    capture = LogCapture()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, capture])
    yield capture
    structlog.reset_defaults()


@pytest.mark.requirement("R-306")
@pytest.mark.requirement("R-113")
async def test_a_servers_secrets_show_nowhere(
    rest: Rest, upstream: PlainUpstream, alice: UserContext, logs: LogCapture
) -> None:
    created = await rest.call(
        alice, "POST", json={"serverName": "s", "url": upstream.url, **SECRETS}
    )
    path = f"/{created.json()['id']}"
    upstream.redirects_to = "http://127.0.0.1:9/"
    answers = [
        created,
        await rest.call(alice, "GET"),
        await rest.call(alice, "GET", path),
        await rest.call(alice, "PATCH", path, json=SECRETS),
        await rest.call(alice, "POST", f"{path}/refresh"),
        await rest.call(alice, "POST", "/connection", json={"url": upstream.url, **SECRETS}),
        await rest.call(alice, "POST", json={"serverName": "s", "url": upstream.url, **SECRETS}),
        await rest.call(alice, "PATCH", path, json={"apiKey": {"key": [f"{SENTINEL}"]}}),
        await rest.client.get("/metrics"),
    ]
    documents = [
        document
        for name in await rest.parts.database.db.list_collection_names()
        async for document in rest.parts.database.collection(name).find({})
    ]

    shown = [answer.text for answer in answers]
    assert SENTINEL not in json.dumps(shown)
    assert SENTINEL not in json.dumps(logs.entries, default=str)
    assert SENTINEL not in json_util.dumps(documents)
    assert any(SENTINEL in header["authorization"] for header in upstream.seen)


@pytest.mark.requirement("R-306")
async def test_tokens_are_not_logged(rest: Rest, alice: UserContext, logs: LogCapture) -> None:
    token = rest.token(alice)

    await rest.call(alice, "GET")
    await rest.client.get("/api/v1/servers", headers={"Authorization": f"Bearer {token}x"})

    logged = json.dumps(logs.entries, default=str)
    assert "request_served" in logged
    assert token not in logged
