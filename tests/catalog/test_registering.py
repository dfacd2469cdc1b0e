"""Registering a remote server of the catalog, with the values that it asks for."""

import json
from typing import Any

import pytest
from bson import ObjectId

from registry.auth.identity import ALL_SCOPES, USER_SCOPES, Role, UserContext
from registry.catalog.errors import MissingInputsError, NotRegistrableError
from registry.catalog.registering import filled
from registry.catalog.values import CatalogEntry
from registry.core.errors import ValidationFailedError
from tests.fakes.plain_upstream import PlainUpstream
from tests.fakes.rest import Rest
from tests.kit.waiting import until_async

ALICE = UserContext("a" * 24, "alice", Role.USER, USER_SCOPES)
ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)
KEY = {
    "name": "Authorization",
    "value": "Bearer {api_key}",
    "isRequired": True,
    "variables": {"api_key": {"description": "Key of the service.", "isSecret": True}},
}
TENANT = {"tenant": {"description": "Id of the tenant."}}


def entry(*remotes: dict[str, Any], status: str = "active") -> CatalogEntry:
    return CatalogEntry.model_validate(
        {
            "_id": ObjectId("a" * 24),
            "name": "io.example/one",
            "kind": "remote",
            "status": status,
            "document": json.dumps({"remotes": list(remotes)}),
        }
    )


def remote(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "streamable-http", "url": url, **more}


@pytest.mark.parametrize(
    "value", ["a/b", "x@evil.example", "a?b#c", "a%2fb", "evil.example:1/", "\\evil", "\u00fc"]
)
def test_a_value_stays_in_its_segment_of_the_path(value: str) -> None:
    made = filled(entry(remote("https://x.example/{tenant}/mcp")), {"tenant": value}, {})

    head, inside, tail = made.url[:18], made.url[18:-4], made.url[-4:]
    assert (head, tail) == ("https://x.example/", "/mcp")
    assert not set(inside) & set("/?#@:\\")


@pytest.mark.parametrize("value", ["evil.example/", "a.b", "x@y", "a:1", "a#", "-", "a\\b"])
def test_a_value_does_not_move_the_host(value: str) -> None:
    with pytest.raises(MissingInputsError, match=r"variables\.tenant: must be one part"):
        filled(entry(remote("https://{tenant}.x.example/mcp")), {"tenant": value}, {})


@pytest.mark.parametrize("value", [".", ".."])
def test_a_value_does_not_move_the_path(value: str) -> None:
    with pytest.raises(MissingInputsError, match="change the path"):
        filled(entry(remote("https://x.example/{tenant}/mcp")), {"tenant": value}, {})


def test_a_secret_is_not_put_into_a_url() -> None:
    said = {"tenant": {"isSecret": True}}
    with pytest.raises(MissingInputsError, match="stored and shown in clear") as raised:
        filled(entry(remote("https://x.example/{tenant}", variables=said)), {"tenant": "S3cr"}, {})
    assert "S3cr" not in f"{raised.value.message}{raised.value.facts}"


def test_defaults_and_optional_headers_need_no_values() -> None:
    optional = {**KEY, "isRequired": False}
    said = {"tenant": {"default": "main"}}
    one = entry(remote("https://x.example/{tenant}", variables=said, headers=[optional]))

    made = filled(one, {}, {})

    assert (made.url, dict(made.headers)) == ("https://x.example/main", {})


def test_an_unknown_value_and_one_that_is_no_choice_are_refused() -> None:
    said = {"tenant": {"choices": ["a", "b"]}}
    with pytest.raises(MissingInputsError) as raised:
        filled(
            entry(remote("https://x.example/{tenant}", variables=said)),
            {"tenant": "c"},
            {"X": "1"},
        )
    assert {one["field"] for one in raised.value.facts["details"]} == {  # type: ignore[attr-defined]
        "variables.tenant",
        "headers.x",
    }


@pytest.mark.parametrize(
    "one",
    [entry(), entry(remote("https://x.example/"), status="deleted")],
    ids=["none", "deleted"],
)
def test_what_cannot_be_connected_to_is_refused(one: CatalogEntry) -> None:
    with pytest.raises(NotRegistrableError):
        filled(one, {}, {})


@pytest.mark.parametrize(
    ("host", "value", "made"),
    [
        ("{host}", "db.example.org", "https://db.example.org/mcp"),
        ("{host}:8443", "10.1.2.3", "https://10.1.2.3:8443/mcp"),
        ("{host}:{port}", "a", "https://a:99/mcp"),
    ],
)
def test_a_variable_that_is_the_whole_host_takes_a_whole_name(
    host: str, value: str, made: str
) -> None:
    ports = {"port": "99"} if "{port}" in host else {}
    one = entry(remote(f"https://{host}/mcp"))

    assert filled(one, {"host": value, **ports}, {}).url == made


@pytest.mark.parametrize("value", ["a..b", "a/b", "x@y.z", "a:1", ".", "a.b.", "[::1]"])
def test_a_whole_host_is_a_name_and_nothing_else(value: str) -> None:
    with pytest.raises(MissingInputsError, match="must be a host name"):
        filled(entry(remote("https://{host}/mcp")), {"host": value}, {})


def test_a_remote_is_chosen_by_its_number() -> None:
    one = entry(
        remote("https://a.example/"), remote("https://b.example/", type="sse"), {"type": "ws"}
    )

    assert filled(one, {}, {}).url == "https://a.example/"
    assert filled(one, {}, {}, 1).url == "https://b.example/"
    with pytest.raises(ValidationFailedError, match="streamable-http or sse"):
        filled(one, {}, {}, 2)
    with pytest.raises(ValidationFailedError, match="below 3"):
        filled(one, {}, {}, 3)


@pytest.mark.wire
@pytest.mark.asyncio(loop_scope="module")
async def test_a_package_is_recorded_and_linked_and_takes_no_values(rest: Rest) -> None:
    package = {"registryType": "oci", "identifier": "mcp/time", "version": "1"}
    body = {"name": "io.example/time", "package": package}
    made_entry = (await rest.ask(ROOT, "POST", "/catalog/servers", json=body)).json()
    path = f"/catalog/servers/{made_entry['id']}/register"

    without = await rest.ask(ALICE, "POST", path, json={})
    valued = await rest.ask(ALICE, "POST", path, json={"package": 0, "variables": {"a": "b"}})
    both = await rest.ask(ALICE, "POST", path, json={"package": 0, "remote": 0})
    made = await rest.ask(ALICE, "POST", path, json={"package": 0})

    refused = {one.status_code for one in (without, valued, both)}
    assert (refused <= {409, 422}, made.status_code) == (True, 201), made.text
    assert (made.json()["package"], made.json()["registryServerName"]) == (
        package,
        "io.example/time",
    )
    assert made.json()["status"] == "inactive"


async def imported(rest: Rest, url: str) -> str:
    listed = {
        "name": "io.example/one",
        "description": "One.",
        "version": "1.0.0",
        "remotes": [remote(url, variables=TENANT, headers=[KEY])],
    }
    body = {"source": "mine", "document": {"servers": [{"server": listed}]}}
    answer = await rest.ask(ROOT, "POST", "/catalog/imports", json=body)
    assert answer.status_code == 202, answer.text
    found: list[dict[str, Any]] = []

    async def is_there() -> bool:
        await rest.follow()
        found[:] = (await rest.ask(ROOT, "GET", "/catalog/servers")).json()["servers"]
        return bool(found)

    await until_async(is_there)
    return str(found[0]["id"])


@pytest.mark.wire
@pytest.mark.asyncio(loop_scope="module")
async def test_an_entry_is_registered_linked_and_its_secret_encrypted(
    rest: Rest, upstream: PlainUpstream
) -> None:
    entry_id = await imported(rest, upstream.url + "?tenant={tenant}")
    path = f"/catalog/servers/{entry_id}/register"

    refused = await rest.ask(ALICE, "POST", path, json={})
    upstream.takes_key = "K3y-of-mine"
    values = {"tenant": "a&b", "api_key": "K3y-of-mine"}
    made = await rest.ask(
        ALICE, "POST", path, json={"variables": values}, params={"strict": "true"}
    )

    assert refused.status_code == 422
    assert {(one["field"], one["message"]) for one in refused.json()["details"]} == {
        ("variables.tenant", "is required: Id of the tenant."),
        ("variables.api_key", "is required: Key of the service."),
    }
    assert made.status_code == 201, made.text
    stored = await rest.parts.database.collection("mcpservers").find_one({})
    assert made.json()["registryServerId"] == entry_id
    assert stored is not None
    assert stored["config"]["url"] == upstream.url + "?tenant=a%26b"
    assert "K3y-of-mine" not in f"{stored}{made.text}"


@pytest.mark.wire
@pytest.mark.asyncio(loop_scope="module")
async def test_a_server_stays_linked_while_its_url_fits_the_one_with_variables(
    rest: Rest, upstream: PlainUpstream
) -> None:
    entry_id = await imported(rest, upstream.url + "?tenant={tenant}")
    values = {"tenant": "a", "api_key": "K3y-of-mine"}
    made = await rest.ask(
        ALICE, "POST", f"/catalog/servers/{entry_id}/register", json={"variables": values}
    )
    path = f"/servers/{made.json()['id']}"

    matched = await rest.ask(ALICE, "POST", "/catalog/match")
    links = []
    for url in (upstream.url + "?tenant=b", upstream.url + "?other=b"):
        changed = await rest.ask(ALICE, "PATCH", path, json={"url": url})
        links.append(changed.json().get("registryServerId"))

    assert (matched.json()["unchanged"], matched.json()["unlinked"]) == (1, 0)
    assert links == [entry_id, None]
