"""Imports from other registries: by page, what changed since, and from allowed addresses alone."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from registry.auth.identity import ALL_SCOPES, OPERATOR, Role, UserContext
from registry.catalog.errors import RegistryUnavailableError
from registry.catalog.importing import ImportResult
from registry.catalog.values import ImportRequest
from tests.catalog.test_importing import finished
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)
YAML = """
registry:
  time:
    description: Tells the time.
    image: mcp/time
    tools:
      - name: now
    metadata:
      tags: [clock]
"""


@dataclass(slots=True)
class OtherRegistry:
    """Serves three servers, one a page.

    Attributes:
        redirects_to: Where requests are sent.
        is_stuck: Whether each page names itself as the next.
        is_down_after: Pages after which it fails.
        asked: The queries.
        takes_key: The one bearer token that is not refused; None for any or none.
    """

    url: str = ""
    redirects_to: str | None = None
    is_stuck: bool = False
    is_down_after: int = 100
    asked: list[dict[str, str]] = field(default_factory=list)
    takes_key: str | None = None

    async def servers(self, request: web.Request) -> web.Response:
        """Answer one page."""
        if self.redirects_to is not None:
            return web.Response(status=302, headers={"Location": self.redirects_to})
        if self.takes_key not in {None, request.headers.get("Authorization", "")[7:]}:
            return web.Response(status=401)
        query = dict(request.query)
        self.asked.append(query)
        if len(self.asked) > self.is_down_after:
            return web.Response(status=503)
        number = int(query.get("cursor", "0"))
        remotes = [{"type": "streamable-http", "url": f"https://s{number}.example/mcp"}]
        server = {"name": f"io.example/s{number}", "version": "1.0.0", "remotes": remotes}
        following = number if self.is_stuck else number + 1
        metadata = {"nextCursor": str(following)} if following < 3 and number < 2 else {}
        return web.json_response({"servers": [{"server": server}], "metadata": metadata})

    async def file(self, _request: web.Request) -> web.Response:
        """Answer Docker's form, as YAML."""
        return web.Response(text=YAML)


@pytest_asyncio.fixture(loop_scope="module")
async def other() -> AsyncIterator[OtherRegistry]:
    registry = OtherRegistry()
    app = web.Application()
    app.router.add_get("/v0.1/servers", registry.servers)
    app.router.add_get("/catalog.yaml", registry.file)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    registry.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield registry
    await runner.cleanup()


async def ended(rest: Rest, url: str, **body: Any) -> dict[str, Any]:
    asked = {"source": "other", "url": url, **body}
    answer = await rest.ask(ROOT, "POST", "/catalog/imports", json=asked)
    assert answer.status_code == 202, answer.text
    return await finished(rest, answer.json()["id"])


async def test_a_registry_is_read_page_by_page_and_then_what_changed_since(
    rest: Rest, other: OtherRegistry
) -> None:
    first = await ended(rest, other.url)
    pages = [one.get("cursor") for one in other.asked]
    other.asked.clear()
    second = await ended(rest, other.url)
    since = {one.get("updated_since") for one in other.asked}
    other.asked.clear()
    await ended(rest, other.url, full=True)

    assert (first["state"], first["counts"]) == ("succeeded", {"added": 3})
    assert pages == [None, "1", "2"]
    assert second["counts"] == {"unchanged": 3}
    (source,) = (await rest.ask(ROOT, "GET", "/catalog/sources")).json()["sources"]
    assert None not in since
    assert all(one < source["importedUntil"] for one in since if one)
    assert [one.get("updated_since") for one in other.asked] == [None] * 3


async def test_a_command_sends_credentials_that_are_stored_nowhere(
    rest: Rest, other: OtherRegistry
) -> None:
    other.takes_key = "K3y-of-theirs"
    headers = {"Authorization": "Bearer K3y-of-theirs"}
    request = ImportRequest("other", other.url, headers=headers)

    with pytest.raises(RegistryUnavailableError, match="wants other credentials"):
        await rest.parts.catalog.import_now(
            replace(request, headers=None), OPERATOR, progress=_ignore
        )
    result = await rest.parts.catalog.import_now(request, OPERATOR, progress=_ignore)

    assert dict(result.counts) == {"added": 3}
    database = rest.parts.database.db
    for name in await database.list_collection_names():
        assert "K3y-of-theirs" not in str(await database[name].find({}).to_list())
    assert "K3y-of-theirs" not in repr(request)


async def _ignore(_result: ImportResult, _resume: str | None) -> None:
    """Ignore the progress."""


async def test_a_registry_that_fails_midway_is_gone_on_with_where_it_was(
    rest: Rest, other: OtherRegistry
) -> None:
    other.is_down_after = 1
    answer = await rest.ask(
        ROOT, "POST", "/catalog/imports", json={"source": "other", "url": other.url}
    )
    job_id = answer.json()["id"]
    await finished(rest, job_id, frozenset({"retrying"}))
    other.is_down_after = 100
    await rest.parts.database.collection("catalog_jobs").update_many(
        {}, [{"$set": {"due_at": "$$NOW"}}]
    )
    # The worker looks for jobs when there is a new one.
    await ended(rest, f"{other.url}/catalog.yaml", source="another", dryRun=True)

    job = await finished(rest, job_id)

    assert (job["state"], job["counts"]) == ("succeeded", {"added": 3})
    assert [one.get("cursor") for one in other.asked][-2:] == ["1", "2"]


async def test_a_registry_that_answers_the_same_page_again_ends_the_import(
    rest: Rest, other: OtherRegistry
) -> None:
    other.is_stuck = True

    job = await ended(rest, other.url)

    assert (job["state"], len(other.asked)) == ("dead", 2)
    assert job["error"] == "The registry answers with the same page again."


async def test_a_file_of_docker_is_read_as_yaml(rest: Rest, other: OtherRegistry) -> None:
    job = await ended(rest, f"{other.url}/catalog.yaml")

    (entry,) = (await rest.ask(ROOT, "GET", "/catalog/servers")).json()["servers"]
    assert job["counts"] == {"added": 1}
    assert (entry["name"], entry["kind"], entry["tags"], entry["numTools"]) == (
        "time",
        "container",
        ["clock"],
        1,
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://[fd00:ec2::254]/",
        "http://0x0a000001/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
    ],
)
async def test_addresses_that_are_not_allowed_are_not_contacted(rest: Rest, url: str) -> None:
    answer = await rest.ask(ROOT, "POST", "/catalog/imports", json={"source": "other", "url": url})
    job = await finished(rest, answer.json()["id"]) if answer.status_code == 202 else None

    assert (job is None and answer.status_code == 422) or (
        job is not None and job["state"] != "succeeded" and job["counts"] == {}
    )
    assert (await rest.ask(ROOT, "GET", "/catalog/servers")).json()["servers"] == []


async def test_a_redirect_to_an_address_that_is_not_allowed_is_not_followed(
    rest: Rest, other: OtherRegistry
) -> None:
    other.redirects_to = "http://10.0.0.1/v0.1/servers"

    job = await ended(rest, other.url)

    assert (job["state"], job["counts"]) == ("dead", {})
    assert "10.0.0.1" in job["error"]
