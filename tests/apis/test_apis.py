"""REST APIs through the whole registry: registered, served, called, changed, removed."""

import uuid
from typing import Any

import pytest

from registry.auth.identity import UserContext
from tests.apis.conftest import Shop, registered
from tests.fakes.descriptions import PETS, document
from tests.fakes.plain_upstream import plain_upstream
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]


def fresh() -> str:
    """Return a name that no other test has."""
    return f"pets-{uuid.uuid4().hex[:8]}"


async def listed(rest: Rest, user: UserContext, slug: str) -> dict[str, Any]:
    """Return the tools of a path as clients get them, by name."""
    answer = await rest.client.post(
        f"/mcp/{slug}",
        json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
        headers={
            "Authorization": f"Bearer {rest.token(user)}",
            "Accept": "application/json, text/event-stream",
        },
    )
    return {tool["name"]: tool for tool in answer.json()["result"]["tools"]}


@pytest.mark.requirement("R-013")
@pytest.mark.requirement("R-030")
async def test_an_api_is_registered_by_its_description_and_kept_apart_from_servers(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    name = fresh()
    made = await registered(rest, root, shop, name=name, tags=["shop"])

    read = (await rest.ask(root, "GET", f"/apis/{made['id']}")).json()
    apis = (await rest.ask(root, "GET", f"/apis?query={name}")).json()["apis"]
    stored = await rest.parts.database.collection("raw_apis").find_one({"serverName": name})

    assert made["tools"] == "listPets, addPet, showPet, removePet"
    assert (made["baseUrl"], made["url"]) == (shop.api.url, shop.description_url)
    assert (made["status"], made["path"]) == ("active", f"/mcp/{name}")
    assert made["openapi"]["operations"] == 4
    assert read["id"] == made["id"]
    assert [api["name"] for api in apis] == [name]
    assert stored is not None
    assert await rest.parts.database.collection("mcpservers").count_documents({}) == 0
    assert (await rest.ask(root, "GET", f"/servers/{made['id']}")).status_code == 404
    assert (await rest.ask(root, "GET", "/servers")).json()["servers"] == []


@pytest.mark.requirement("R-012")
@pytest.mark.requirement("R-060")
@pytest.mark.requirement("R-062")
@pytest.mark.requirement("R-171")
async def test_its_operations_are_tools_of_the_one_table(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    name = fresh()
    await registered(rest, root, shop, name=name)
    await rest.follow()

    rows = (
        await rest.ask(root, "GET", f"/registry/tools?source_type=openapi&query={name}")
    ).json()
    tools = await listed(rest, root, name)

    assert {row["name"]: row["external_id"] for row in rows["tools"]} == {
        "listPets": "listPets",
        "addPet": "addPet",
        "showPet": "showPet",
        "removePet": "removePet",
    }
    assert all(row["source_type"] == "openapi" for row in rows["tools"])
    assert tools["showPet"]["inputSchema"]["required"] == ["petId"]
    assert tools["removePet"]["annotations"]["destructiveHint"] is True
    assert tools["listPets"]["annotations"]["readOnlyHint"] is True
    assert all(
        "mcp-gateway-registry/operation" not in tool.get("_meta", {}) for tool in tools.values()
    )


@pytest.mark.requirement("R-075")
async def test_a_tool_says_by_which_method_it_is_called(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    name = fresh()
    await registered(rest, root, shop, name=name)
    async with plain_upstream() as upstream:
        server = await rest.register(root, fresh(), upstream.url)
    await rest.follow()
    methods = {}
    for query in (name, server["serverName"]):
        found = await rest.ask(root, "GET", f"/registry/tools?query={query}")
        for row in found.json()["tools"]:
            detail = (await rest.ask(root, "GET", f"/registry/tools/{row['id']}")).json()
            methods[detail["name"]] = detail["method"]
    await rest.call(root, "DELETE", f"/{server['id']}")

    assert methods == {
        "listPets": "get",
        "addPet": "post",
        "showPet": "get",
        "removePet": "delete",
        "echo": "call",
    }


@pytest.mark.requirement("R-234")
async def test_calls_become_requests(rest: Rest, root: UserContext, shop: Shop) -> None:
    name = fresh()
    await registered(rest, root, shop, name=name)
    await rest.follow()

    shown = await rest.call_tool(root, name, "showPet", petId="a/b ?")
    await rest.call_tool(root, name, "listPets", limit=3)
    await rest.call_tool(root, name, "addPet", name="Rex")
    refused = await rest.call_tool(root, name, "listPets", limit="many")

    assert shop.called() == ["GET /pets/a%2Fb%20%3F", "GET /pets?limit=3", "POST /pets"]
    assert shop.api.seen[-1].body == b'{"name":"Rex"}'
    assert "/pets/a" in shown
    assert "/limit violates" in refused


@pytest.mark.requirement("R-235")
@pytest.mark.parametrize(
    ("api_key", "sent"),
    [
        ({"key": "s3cret"}, ("Authorization", "Bearer s3cret")),
        (
            {"key": "s3cret", "authorization_type": "custom", "custom_header": "X-Key"},
            ("X-Key", "s3cret"),
        ),
        (
            {
                "key": "s3cret",
                "authorization_type": "custom",
                "custom_header": "sid",
                "location": "cookie",
            },
            ("Cookie", "sid=s3cret"),
        ),
    ],
)
async def test_credentials_are_sent_with_calls_and_shown_to_nobody(
    rest: Rest, root: UserContext, shop: Shop, api_key: dict[str, str], sent: tuple[str, str]
) -> None:
    name = fresh()
    made = await registered(rest, root, shop, name=name, apiKey=api_key)
    await rest.follow()

    await rest.call_tool(root, name, "listPets")

    request = shop.api.seen[-1]
    assert request.headers[sent[0]] == sent[1]
    assert made["apiKey"]["key"] == "***"
    assert "s3cret" not in str(made)
    assert rest.token(root) not in str(dict(request.headers))


async def test_a_key_is_sent_as_a_query_parameter(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    name = fresh()
    key = {
        "key": "s3 cret",
        "authorization_type": "custom",
        "custom_header": "api_key",
        "location": "query",
    }
    await registered(rest, root, shop, name=name, apiKey=key)
    await rest.follow()

    await rest.call_tool(root, name, "listPets", limit=2)

    assert shop.called() == ["GET /pets?limit=2&api_key=s3%20cret"]


async def test_only_selected_operations_become_tools(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    operations = {"include": [{"tag": "pets"}], "exclude": [{"method": "post"}]}
    made = await registered(rest, root, shop, name=fresh(), operations=operations)
    everything = await rest.ask(
        root,
        "PATCH",
        f"/apis/{made['id']}",
        json={"operations": {"include": [{"path": "/pets/*"}]}},
    )

    assert made["tools"] == "listPets"
    assert everything.status_code == 200, everything.text
    assert everything.json()["tools"] == "showPet, removePet"


@pytest.mark.requirement("R-002")
async def test_a_changed_description_is_held_until_it_is_accepted(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    name = fresh()
    made = await registered(rest, root, shop, name=name, scope="shared_app")
    shop.paths["/pets"]["get"]["parameters"].append(
        {"name": "kind", "in": "query", "required": True, "schema": {"type": "string"}}
    )
    del shop.paths["/pets/{petId}"]["delete"]
    shop.paths["/shops"] = {"get": {"operationId": "listShops", "responses": {}}}

    refreshed = (await rest.ask(root, "POST", f"/apis/{made['id']}/refresh")).json()
    await rest.follow()
    before = await listed(rest, root, name)
    rows = (await rest.ask(root, "GET", f"/registry/tools?query={name}")).json()["tools"]
    row = next(one for one in rows if one["name"] == "listPets")
    held = (await rest.ask(root, "GET", f"/registry/tools/{row['id']}")).json()
    accepted = await rest.ask(
        root, "POST", f"/registry/tools/{row['id']}/accept", json={"hash": held["pending_hash"]}
    )
    await rest.follow()
    after = await listed(rest, root, name)

    assert refreshed["ok"] is True
    assert sorted(refreshed["heldTools"]) == ["listPets", "listShops"]
    assert "kind" not in before["listPets"]["inputSchema"]["properties"]
    assert "removePet" not in before
    assert "listShops" not in before
    assert accepted.status_code == 200, accepted.text
    assert after["listPets"]["inputSchema"]["required"] == ["kind"]


@pytest.mark.parametrize(
    ("header", "condition", "first", "second"),
    [
        ("ETag", "If-None-Match", '"1"', '"2"'),
        (
            *("Last-Modified", "If-Modified-Since"),
            *("Mon, 02 Nov 2026 10:00:00 GMT", "Tue, 03 Nov 2026 10:00:00 GMT"),
        ),
    ],
)
async def test_a_description_that_has_not_changed_is_not_sent_again(
    rest: Rest, root: UserContext, shop: Shop, header: str, condition: str, first: str, second: str
) -> None:
    shop.version = (header, first)
    made = await registered(rest, root, shop, name=fresh(), scope="shared_app")
    table = rest.parts.database.collection("raw_apis")
    before = await table.find_one({"serverName": made["name"]})
    # Sent whole, this would be news.
    shop.paths["/shops"] = {"get": {"operationId": "listShops", "responses": {}}}

    unchanged = (await rest.ask(root, "POST", f"/apis/{made['id']}/refresh")).json()
    after = await table.find_one({"serverName": made["name"]})
    change = {"operations": {"include": [{"id": "showPet"}]}}
    narrowed = await rest.ask(root, "PATCH", f"/apis/{made['id']}", json=change)
    await rest.ask(root, "PATCH", f"/apis/{made['id']}", json={"operations": None})
    shop.version = (header, second)
    changed = (await rest.ask(root, "POST", f"/apis/{made['id']}/refresh")).json()

    asked = [one.headers.get(condition) for one in shop.api.seen if one.target == "/openapi.json"]
    assert asked[:2] == [None, first]
    assert unchanged["ok"] is True
    assert not unchanged.get("heldTools")
    assert before is not None
    assert after is not None
    for name in ("document", "updatedAt", "config"):
        assert after[name] == before[name]
    assert after["registry"]["api"] == before["registry"]["api"]
    assert narrowed.json()["tools"] == "showPet"
    assert "listShops" in changed["heldTools"]


async def test_another_address_is_not_asked_for_news_of_the_former_one(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    shop.version = ("ETag", '"1"')
    made = await registered(rest, root, shop, name=fresh())
    moved = f"{shop.description_url}?v=2"

    changed = await rest.ask(root, "PATCH", f"/apis/{made['id']}", json={"url": moved})

    asked = [one.headers.get("If-None-Match") for one in shop.api.seen if "?v=2" in one.target]
    assert changed.status_code == 200, changed.text
    assert asked
    assert set(asked) == {None}


async def test_what_people_changed_survives_a_new_reading(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    name = fresh()
    made = await registered(rest, root, shop, name=name)
    rows = (await rest.ask(root, "GET", f"/registry/tools?query={name}")).json()["tools"]
    row = next(one for one in rows if one["name"] == "listPets")
    change = {"description": "All the animals.", "tags": ["zoo"]}
    changed = await rest.ask(root, "PATCH", f"/registry/tools/{row['id']}", json=change)
    assert changed.status_code == 200, changed.text
    shop.paths["/pets"]["get"]["summary"] = "List the pets"

    await rest.ask(root, "POST", f"/apis/{made['id']}/refresh")
    await rest.follow()

    tools = await listed(rest, root, name)
    assert tools["listPets"]["description"] == "All the animals."


async def test_a_description_that_names_another_server_is_not_followed(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    name = fresh()
    made = await registered(rest, root, shop, name=name, apiKey={"key": "s3cret"})
    shop.members["servers"] = [{"url": "http://elsewhere.example"}]

    await rest.ask(root, "POST", f"/apis/{made['id']}/refresh")
    read = (await rest.ask(root, "GET", f"/apis/{made['id']}")).json()

    assert read["baseUrl"] == shop.api.url
    assert any("elsewhere.example" in one["reason"] for one in read["toolProblems"])


async def test_servers_and_apis_share_names_and_paths(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    name = fresh()
    made = await registered(rest, root, shop, name=name)
    async with plain_upstream() as upstream:
        same = await rest.ask(
            root, "POST", "/servers", json={"serverName": name, "url": upstream.url}
        )
        path = await rest.ask(
            root,
            "POST",
            "/servers",
            json={"serverName": fresh(), "url": upstream.url, "path": f"/mcp/{name}"},
        )

    assert [same.status_code, path.status_code] == [409, 409]
    removed = await rest.ask(root, "DELETE", f"/apis/{made['id']}")
    assert removed.status_code == 204
    assert (
        await rest.parts.database.collection("raw_apis").count_documents({"serverName": name}) == 0
    )
    left = rest.parts.database.collection("mcp_tools")
    assert await left.count_documents({"source_type": "openapi", "external_id": "x"}) == 0


async def test_an_api_can_be_turned_off_and_on(rest: Rest, root: UserContext, shop: Shop) -> None:
    name = fresh()
    made = await registered(rest, root, shop, name=name)
    off = await rest.ask(root, "POST", f"/apis/{made['id']}/toggle", json={"enabled": False})
    await rest.follow()
    gone = await rest.call_tool(root, name, "listPets")
    await rest.ask(root, "POST", f"/apis/{made['id']}/toggle", json={"enabled": True})
    await rest.follow()
    back = await rest.call_tool(root, name, "listPets")

    assert off.json()["status"] == "inactive"
    assert '"isError":false' in back
    assert "/pets" in back
    assert "/pets" not in gone


async def test_a_given_description_is_read_again_from_where_it_is_kept(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    text = document(server=shop.api.url)
    body = {"name": fresh(), "document": text}
    made = (await rest.ask(root, "POST", "/apis", json=body)).json()
    paths = {"/pets": {"get": PETS["/pets"]["get"]}}

    again = await rest.ask(root, "POST", f"/apis/{made['id']}/refresh")
    changed = await rest.ask(
        root,
        "PATCH",
        f"/apis/{made['id']}",
        json={"document": document(paths, server=shop.api.url)},
    )

    assert made["numTools"] == 4
    assert again.json()["ok"] is True
    assert changed.json()["tools"] == "listPets"
    assert "document" not in str(changed.json().get("operations"))


async def test_a_description_of_several_files_can_be_given(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    pets = {
        "get": {"operationId": "listPets", "parameters": [{"$ref": "parts/limit.yaml#/limit"}]}
    }
    text = document({"/pets": pets}, server=shop.api.url)
    limit = "limit:\n  name: limit\n  in: query\n  schema: {$ref: '../types.json#/Count'}\n"
    files = {"parts/limit.yaml": limit, "types.json": '{"Count": {"type": "integer"}}'}
    name = fresh()

    made = await rest.ask(
        root, "POST", "/apis", json={"name": name, "document": text, "files": files}
    )
    place = f"/apis/{made.json()['id']}"
    again = await rest.ask(root, "POST", f"{place}/refresh")
    narrowed = {**files, "types.json": '{"Count": {"type": "integer", "maximum": 5}}'}
    changed = await rest.ask(root, "PATCH", place, json={"document": text, "files": narrowed})
    tools = (await rest.ask(root, "GET", f"{place}/tools")).json()["tools"]
    odd = [
        await rest.ask(root, "PATCH", place, json={"document": text, "files": {"a": "["}}),
        await rest.ask(root, "PATCH", place, json={"document": text, "files": {"../a": "{}"}}),
        await rest.ask(root, "PATCH", place, json={"files": files}),
    ]

    assert made.status_code == 201, made.text
    assert made.json()["numTools"] == 1
    assert "toolProblems" not in made.json()
    assert again.json()["ok"] is True
    assert changed.status_code == 200, changed.text
    assert tools[0]["inputSchema"]["$defs"]["Count"] == {"type": "integer", "maximum": 5}
    assert [one.status_code for one in odd] == [422] * 3
    assert odd[0].json()["details"][0]["field"] == "files.a"


async def test_a_preview_stores_nothing(rest: Rest, root: UserContext, shop: Shop) -> None:
    before = await rest.parts.database.collection("raw_apis").count_documents({})
    answer = await rest.ask(root, "POST", "/apis/preview", json={"url": shop.description_url})

    assert answer.status_code == 200, answer.text
    assert [tool["name"] for tool in answer.json()["tools"]] == [
        "listPets",
        "addPet",
        "showPet",
        "removePet",
    ]
    assert answer.json()["baseUrl"] == shop.api.url
    assert await rest.parts.database.collection("raw_apis").count_documents({}) == before


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"name": "x"}, 422, "url"),
        ({"name": "x", "url": "u", "document": "d"}, 422, "not both"),
        ({"name": "x", "document": "{"}, 422, "document"),
        ({"name": "x", "document": "[]"}, 422, "no object"),
        ({"name": "x", "url": "file:///etc/passwd"}, 422, "http"),
        ({"name": "x", "url": "http://169.254.169.254/openapi.json"}, 422, "169.254"),
        ({"name": "mcp servers", "document": "{}"}, 422, "name"),
        ({"name": "x", "document": "{}", "operations": {"include": [{}]}}, 422, "needs a tag"),
        (
            {"name": "x", "document": "{}", "apiKey": {"key": "k", "location": "query"}},
            422,
            "custom",
        ),
        ({"name": "x", "document": '{"swagger": 1}'}, 422, "neither OpenAPI 3 nor Swagger 2.0"),
        ({"name": "x", "document": '{"swagger": 1}'}, 422, "at /swagger"),
        ({"name": "x", "document": '{"openapi": "3.0.0", "paths": []}'}, 422, "at /paths"),
        ({"name": "x", "document": '{"openapi": "3.0.0", "paths": {}}'}, 422, "baseUrl"),
        ({"name": "x", "url": "http://127.0.0.1:9", "requiresOAuth": True}, 422, "baseUrl"),
        ({"name": "x", "url": "http://127.0.0.1:9", "apiKey": {"source": "user"}}, 422, "baseUrl"),
        ({"name": "x", "document": "a: [\n", "base_url": "http://127.0.0.1:9"}, 422, "in line"),
        (
            {"name": "x", "document": document(), "baseUrl": "http://169.254.169.254"},
            422,
            "baseUrl",
        ),
    ],
)
async def test_bad_input_is_refused_by_name(
    rest: Rest, root: UserContext, body: dict[str, Any], status: int, word: str
) -> None:
    answer = await rest.ask(root, "POST", "/apis", json=body)

    assert (answer.status_code, answer.json()["error"]) == (status, "validation_error"), (
        answer.text
    )
    assert word in answer.text


@pytest.mark.parametrize("text", ["[]", "{}", "a: [", '{"openapi": "3.0.0", "paths": 7}'])
async def test_a_given_description_that_cannot_be_used_is_refused_wherever_it_is_given(
    rest: Rest, root: UserContext, shop: Shop, text: str
) -> None:
    made = await registered(rest, root, shop, name=fresh())
    place = f"/apis/{made['id']}"

    answers = [
        await rest.ask(root, method, path, json=body)
        for method, path, body in (
            ("POST", "/apis", {"name": fresh(), "document": text}),
            ("POST", "/apis?strict=true", {"name": fresh(), "document": text}),
            ("POST", "/apis/preview", {"document": text}),
            ("PATCH", place, {"document": text}),
            ("PUT", place, {"document": text}),
        )
    ]
    after = (await rest.ask(root, "GET", place)).json()

    assert [answer.status_code for answer in answers] == [422] * 5
    assert {answer.json()["details"][0]["field"] for answer in answers} == {"document"}
    assert after["tools"] == made["tools"]


@pytest.mark.parametrize("key", ["a;b=c", "a,b", 'a"b', "a b", "a\\b", "a\tb", "b\u00e4"])
async def test_a_key_that_no_cookie_can_carry_is_refused(
    rest: Rest, root: UserContext, shop: Shop, key: str
) -> None:
    def in_a(place: str, value: str) -> dict[str, Any]:
        key = {"key": value, "authorization_type": "custom", "custom_header": "sid"}
        return {"apiKey": {**key, "location": place}}

    body = {"name": fresh(), "url": shop.description_url, **in_a("cookie", key)}
    made = await registered(rest, root, shop, name=fresh(), **in_a("query", "a;b"))

    refused = await rest.ask(root, "POST", "/apis", json=body)
    moved = await rest.ask(root, "PATCH", f"/apis/{made['id']}", json=in_a("cookie", "***"))

    assert (refused.status_code, moved.status_code) == (422, 422)
    assert "apiKey" in refused.json()["details"][0]["field"]
    assert moved.json()["details"][0]["field"] == "apiKey.key"
    assert key not in refused.text


async def test_a_users_own_key_that_no_cookie_can_carry_is_refused(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    key = {"source": "user", "authorization_type": "custom", "custom_header": "sid"}
    made = await registered(
        rest, root, shop, name=fresh(), apiKey={**key, "location": "cookie"}, baseUrl=shop.api.url
    )

    path = f"/servers/{made['id']}/user-keys"
    refused = await rest.ask(root, "PUT", path, json={"values": {"MCP_API_KEY": "a; b=c"}})
    stored = await rest.ask(root, "PUT", path, json={"values": {"MCP_API_KEY": "a-b"}})

    assert refused.status_code == 422, refused.text
    assert refused.json()["details"][0]["field"] == "values.MCP_API_KEY"
    assert stored.status_code == 200, stored.text


async def test_operations_where_nobody_may_call_are_reported_and_left_out(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    shop.paths["/pets"]["get"]["servers"] = [{"url": "http://169.254.169.254/latest"}]

    made = await registered(rest, root, shop, name=fresh())

    assert made["tools"] == "addPet, showPet, removePet"
    (problem,) = made["toolProblems"]
    assert problem["name"] == "/paths/~1pets/get"
    assert "http://169.254.169.254, where it may not be called" in problem["reason"]


async def test_another_persons_private_api_is_not_found_by_any_method(
    rest: Rest, alice: UserContext, bob: UserContext, shop: Shop
) -> None:
    made = await registered(rest, alice, shop, name=fresh())
    place = f"/apis/{made['id']}"

    answers = [
        await rest.ask(bob, method, path, json=body)
        for method, path, body in (
            ("GET", place, None),
            ("PATCH", place, {"title": "Mine"}),
            ("DELETE", place, None),
            ("POST", f"{place}/toggle", {"enabled": False}),
            ("POST", f"{place}/refresh", None),
            ("GET", f"{place}/tools", None),
        )
    ]

    assert {answer.status_code for answer in answers} == {404}
    assert {answer.text for answer in answers} == {
        '{"error":"not_found","message":"API not found"}'
    }


NOT_FOR_BOB = (
    "Registering an API with the scope shared_app needs the role ADMIN, which this token's user "
    "does not have."
)


async def test_messages_about_apis_are_about_apis(
    rest: Rest, root: UserContext, bob: UserContext, shop: Shop
) -> None:
    name = fresh()
    made = await registered(rest, root, shop, name=name, scope="shared_app")
    place = f"/apis/{made['id']}"
    again = {"name": name, "url": shop.description_url}
    old = {"title": "x", "updatedAt": "2020-01-01T00:00:00Z"}

    same_name = await rest.ask(root, "POST", "/apis", json=again)
    same_path = await rest.ask(
        root, "POST", "/apis", json={**again, "name": fresh(), "path": made["path"]}
    )
    outdated = await rest.ask(root, "PATCH", place, json=old)
    off = await rest.ask(root, "POST", f"{place}/toggle", json={"enabled": True})
    read = await rest.ask(root, "POST", f"{place}/refresh")
    removed = await rest.ask(bob, "DELETE", place)
    shared = await rest.ask(bob, "POST", "/apis", json={**again, "scope": "shared_app"})
    told = [same_name, same_path, outdated, off, read, removed, shared]

    assert same_name.json()["field"] == "name"
    assert [answer.json()["message"] for answer in told] == [
        f"An API or server with name '{name}' already exists",
        f"An API or server with path '/mcp/{name}' already exists",
        "API was modified by another process",
        "API enabled successfully",
        "The description was read",
        "You may not delete this API: no ACL entry grants it.",
        NOT_FOR_BOB,
    ]


async def test_a_whole_answer_can_be_sent_back(rest: Rest, root: UserContext, shop: Shop) -> None:
    made = await registered(rest, root, shop, name=fresh(), apiKey={"key": "s3cret"})
    read = (await rest.ask(root, "GET", f"/apis/{made['id']}")).json()

    same = await rest.ask(root, "PUT", f"/apis/{made['id']}", json=read)
    renamed = await rest.ask(root, "PATCH", f"/apis/{made['id']}", json={"name": "other"})

    assert same.status_code == 200, same.text
    assert renamed.status_code == 422


@pytest.mark.requirement("R-154")
async def test_the_catalogue_lists_operations_alone_without_asking_any_api(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    name = fresh()
    await registered(rest, root, shop, name=name)
    async with plain_upstream() as upstream:
        server = await rest.register(root, fresh(), upstream.url)
    await rest.follow()
    asked = len(shop.api.seen)
    token = {"Authorization": f"Bearer {rest.token(root)}"}

    found = (await rest.ask(root, "GET", f"/mcp/openapi/catalog?query={name}")).json()
    whole = (await rest.client.get("/mcp/openapi/catalog?per_page=200", headers=token)).json()
    stranger = await rest.client.get("/mcp/openapi/catalog")
    await rest.call(root, "DELETE", f"/{server['id']}")

    assert [tool["name"] for tool in found["tools"]] == [
        "listPets",
        "addPet",
        "showPet",
        "removePet",
    ]
    assert {tool["source_type"] for tool in whole["tools"]} == {"openapi"}
    assert stranger.status_code == 401
    assert len(shop.api.seen) == asked


async def test_a_held_change_says_what_it_would_break(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    name = fresh()
    kind = {"name": "kind", "in": "query", "schema": {"type": "string", "enum": ["cat", "dog"]}}
    shop.paths["/pets"]["get"]["parameters"].append(kind)
    made = await registered(rest, root, shop, name=name, scope="shared_app")
    kind["schema"] = {"type": "string", "enum": ["cat"]}
    shop.paths["/pets"]["get"]["parameters"].append(
        {"name": "day", "in": "query", "required": True, "schema": {"type": "integer"}}
    )

    await rest.ask(root, "POST", f"/apis/{made['id']}/refresh")
    await rest.follow()
    waiting = (
        await rest.ask(root, "GET", f"/registry/tools?review=pending&owner_id={made['id']}")
    ).json()["tools"]
    history = (await rest.ask(root, "GET", f"/registry/tools/{waiting[0]['id']}/history")).json()

    expected = [
        ("risky", "argument day added"),
        ("risky", "required argument day added"),
        ("narrowing", "enum narrowed"),
    ]
    pending = waiting[0]["pending_change"]
    assert [tool["name"] for tool in waiting] == ["listPets"]
    assert pending["weight"] == "risky"
    assert [(one["weight"], one["summary"]) for one in pending["changes"]] == expected
    words = ["safe", "breaking", "breaking"]
    assert pending["compatibility"] == "breaking"
    assert [one["compatibility"] for one in pending["changes"]] == words
    newest = history["versions"][0]
    assert newest["state"] == "pending"
    assert [(one["weight"], one["summary"]) for one in newest["changes"]] == expected
    assert newest["compatibility"] == "breaking"
    assert [one["compatibility"] for one in newest["changes"]] == words


@pytest.mark.parametrize("kind", ["openapi", "mcp", None])
async def test_policies_and_limits_are_about_one_kind_of_tools_or_both(
    rest: Rest, root: UserContext, shop: Shop, kind: str | None
) -> None:
    made = await registered(rest, root, shop, name=fresh())
    target = {"source_type": kind, "tools": ["listPets", "echo"]}
    everyone = {"everyone": True}
    deny = {"name": fresh(), "effect": "deny", "target": target, "subjects": everyone}
    closed = {"name": fresh(), "target": target, "subjects": everyone, "in_flight": 0}
    async with plain_upstream() as upstream:
        server = await rest.register(root, fresh(), upstream.url)
        limit = (await rest.ask(root, "POST", "/limits", json=closed)).json()
        await rest.follow()
        answers = {
            server["serverName"]: await rest.call_tool(
                root, server["serverName"], "echo", text="x"
            ),
            made["name"]: await rest.call_tool(root, made["name"], "listPets"),
        }
        limited = {name for name, answer in answers.items() if "rate_limited" in answer}
        await rest.ask(root, "DELETE", f"/limits/{limit['id']}")
        policy = (await rest.ask(root, "POST", "/access/policies", json=deny)).json()
        await rest.follow()
        seen = await listed(rest, root, "")
        explained = [
            (await rest.ask(root, "POST", "/access/explain", json=asked)).json()["allowed"]
            for asked in (
                {"server_id": server["id"], "tool": "echo"},
                {"server_id": made["id"], "tool": "listPets"},
            )
        ]
        await rest.ask(root, "DELETE", f"/access/policies/{policy['id']}")
        await rest.call(root, "DELETE", f"/{server['id']}")

    names = {"mcp": server["serverName"], "openapi": made["name"]}
    meant = set(names.values()) if kind is None else {names[kind]}
    own = {f"{names['mcp']}__echo", f"{names['openapi']}__listPets"}
    left = own & seen.keys()
    assert limit["target"]["source_type"] == policy["target"]["source_type"] == kind
    assert left == {
        f"{names[one]}__{tool}"
        for one, tool in (("mcp", "echo"), ("openapi", "listPets"))
        if names[one] not in meant
    }
    assert explained == [names["mcp"] not in meant, names["openapi"] not in meant]
    assert limited == meant, answers


async def test_policies_and_limits_about_an_api_say_so_and_hold(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    made = await registered(rest, root, shop, name=fresh())
    target = {"owner_id": made["id"], "tools": ["listPets"]}
    subjects = {"everyone": True}
    deny = {"name": fresh(), "effect": "deny", "target": target, "subjects": subjects}
    wrong = {**deny, "target": {**target, "source_type": "mcp"}}
    limit = {"name": fresh(), "target": target, "subjects": subjects, "in_flight": 0}

    made_limit = await rest.ask(root, "POST", "/limits", json=limit)
    refused = await rest.ask(root, "POST", "/access/policies", json=wrong)
    policy = await rest.ask(root, "POST", "/access/policies", json=deny)
    await rest.follow()
    seen = await listed(rest, root, made["name"])

    assert made_limit.json()["target"]["source_type"] == "openapi"
    assert policy.json()["target"]["source_type"] == "openapi"
    assert refused.status_code == 422
    assert refused.json()["details"][0]["field"] == "target.source_type"
    assert "listPets" not in seen
    assert "showPet" in seen


@pytest.mark.requirement("R-002")
async def test_tools_of_both_kinds_are_in_one_list_under_one_policy(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    made = await registered(rest, root, shop, name=fresh())
    async with plain_upstream() as upstream:
        server = await rest.register(root, fresh(), upstream.url)
        await rest.follow()
        before = await listed(rest, root, "")
        policy = {
            "name": fresh(),
            "effect": "deny",
            "target": {"tools": ["listPets", "echo"]},
            "subjects": {"everyone": True},
        }
        stored = await rest.ask(root, "POST", "/access/policies", json=policy)
        await rest.follow()
        after = await listed(rest, root, "")
        denied = await rest.call_tool(root, made["name"], "listPets")
        await rest.ask(root, "DELETE", f"/access/policies/{stored.json()['id']}")
        await rest.call(root, "DELETE", f"/{server['id']}")

    of_server, of_api = f"{server['serverName']}__echo", f"{made['name']}__listPets"
    assert stored.status_code == 201, stored.text
    assert {of_server, of_api} <= before.keys()
    assert {of_server, of_api}.isdisjoint(after)
    assert f"{made['name']}__showPet" in after
    assert "Unknown tool" in denied


async def test_a_refresh_says_of_operations_that_went_and_came_what_they_break(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    made = await registered(rest, root, shop, name=fresh())
    shop.paths["/new"] = {"get": {"operationId": "readNew"}}
    del shop.paths["/pets"]["post"]
    day = {"name": "day", "in": "query", "required": True, "schema": {"type": "string"}}
    shop.paths["/pets"]["get"]["parameters"].append(day)

    answer = (await rest.ask(root, "POST", f"/apis/{made['id']}/refresh")).json()

    told = {
        change["name"]: (change["change"], change["compatibility"], change["reasons"][0])
        for change in answer["changes"]
    }
    assert told == {
        "addPet": ("removed", "breaking", "tool removed"),
        "listPets": ("changed", "breaking", "required argument day added"),
        "readNew": ("added", "safe", "tool added"),
    }


async def test_a_key_that_is_sent_otherwise_than_the_description_wants_is_a_problem(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    scheme = {"type": "apiKey", "in": "header", "name": "X-Key"}
    text = document(server=shop.api.url, components={"securitySchemes": {"key": scheme}})
    as_wanted = {"authorization_type": "custom", "custom_header": "x-key"}

    problems = [
        [
            problem["reason"]
            for problem in (
                await rest.ask(
                    root,
                    "POST",
                    "/apis",
                    json={"name": fresh(), "document": text, "apiKey": {"key": "k", **how}},
                )
            )
            .json()
            .get("toolProblems", [])
        ]
        for how in ({"authorization_type": "bearer"}, as_wanted)
    ]

    assert [len(found) for found in problems] == [1, 0]
    assert "X-Key (header)" in problems[0][0]
