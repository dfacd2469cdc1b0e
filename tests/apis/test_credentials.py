"""Credentials of APIs by the security schemes of their descriptions, the whole way."""

import json
from typing import Any

import pytest

from registry.auth.identity import UserContext
from tests.apis.conftest import Shop, registered
from tests.apis.test_apis import fresh
from tests.fakes.descriptions import PETS, document
from tests.fakes.oauth.provider import Client
from tests.fakes.oauth.serving import serving_oauth
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

HEADER = {"type": "apiKey", "in": "header", "name": "X-Key"}
QUERY = {"type": "apiKey", "in": "query", "name": "api_key"}
COOKIE = {"type": "apiKey", "in": "cookie", "name": "sid"}
BASIC = {"type": "http", "scheme": "basic"}


def secured(shop: Shop, *schemes: dict[str, Any]) -> None:
    """Have the shop's description name security schemes."""
    named = {f"scheme{index}": scheme for index, scheme in enumerate(schemes)}
    shop.members["components"] = {"securitySchemes": named}


@pytest.mark.requirement("R-235")
@pytest.mark.parametrize(
    ("scheme", "key", "name", "value", "told"),
    [
        (HEADER, "s3cret", "X-Key", "s3cret", "header X-Key"),
        (COOKIE, "s3cret", "Cookie", "sid=s3cret", "cookie sid"),
        (BASIC, "me:pw", "Authorization", "Basic bWU6cHc=", "HTTP basic"),
    ],
)
async def test_a_key_goes_where_the_description_says(
    rest: Rest,
    root: UserContext,
    shop: Shop,
    scheme: dict[str, Any],
    key: str,
    name: str,
    value: str,
    told: str,
) -> None:
    secured(shop, scheme)
    body = {"url": shop.description_url, "apiKey": {"key": key}}
    slug = fresh()

    preview = (await rest.ask(root, "POST", "/apis/preview", json=body)).json()
    made = await registered(rest, root, shop, name=slug, apiKey={"key": key})
    tools = (await rest.ask(root, "GET", f"/apis/{made['id']}/tools")).json()
    await rest.follow()
    await rest.call_tool(root, slug, "listPets")

    request = shop.api.seen[-1]
    assert request.headers[name] == value
    assert preview["credentials"] == {"sentAs": [told], "notSentBy": []}
    assert tools["credentials"] == preview["credentials"]
    assert "toolProblems" not in made
    assert rest.token(root) not in str(dict(request.headers))
    assert "Authorization" in request.headers or scheme is not BASIC


async def test_a_key_goes_into_the_query_where_swagger_says_so(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    host = shop.api.url.removeprefix("http://")
    text = json.dumps(
        {
            "swagger": "2.0",
            "info": {"title": "Pets", "version": "1"},
            "host": host,
            "schemes": ["http"],
            "securityDefinitions": {"key": QUERY},
            "paths": {"/pets": {"get": {"operationId": "listPets", "responses": {}}}},
        }
    )
    slug = fresh()
    body = {"name": slug, "document": text, "apiKey": {"key": "k"}}

    made = (await rest.ask(root, "POST", "/apis", json=body)).json()
    await rest.follow()
    await rest.call_tool(root, slug, "listPets")

    assert (made["apiKey"]["custom_header"], made["apiKey"]["location"]) == ("api_key", "query")
    assert shop.called() == ["GET /pets?api_key=k"]


async def test_what_people_say_of_a_key_wins(rest: Rest, root: UserContext, shop: Shop) -> None:
    secured(shop, HEADER)
    slug = fresh()
    key = {"key": "s3cret", "authorization_type": "bearer"}

    made = await registered(rest, root, shop, name=slug, apiKey=key)
    await rest.follow()
    await rest.call_tool(root, slug, "listPets")

    assert shop.api.seen[-1].headers["Authorization"] == "Bearer s3cret"
    assert "X-Key" not in shop.api.seen[-1].headers
    assert "X-Key (header)" in made["toolProblems"][0]["reason"]


async def test_a_key_stays_where_it_is_when_the_description_moves_it(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    secured(shop, HEADER)
    made = await registered(rest, root, shop, name=fresh(), apiKey={"key": "s3cret"})
    secured(shop, QUERY)

    await rest.ask(root, "POST", f"/apis/{made['id']}/refresh")
    moved = (await rest.ask(root, "GET", f"/apis/{made['id']}")).json()
    again = await rest.ask(root, "PATCH", f"/apis/{made['id']}", json={"apiKey": {"key": "new"}})

    assert moved["apiKey"] == made["apiKey"]
    assert again.json()["apiKey"]["location"] == "query"


async def test_a_key_finds_its_place_once_the_description_can_be_read(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    secured(shop, HEADER)
    shop.status = 503
    made = await registered(
        rest, root, shop, name=fresh(), baseUrl=shop.api.url, apiKey={"key": "s3cret"}
    )
    shop.status = 200

    await rest.ask(root, "POST", f"/apis/{made['id']}/refresh")
    read = (await rest.ask(root, "GET", f"/apis/{made['id']}")).json()

    assert made["status"] == "error"
    assert read["apiKey"]["custom_header"] == "X-Key"


async def test_a_key_of_two_possible_places_is_a_bearer_token_and_told_of(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    secured(shop, HEADER, QUERY)

    made = await registered(rest, root, shop, name=fresh(), apiKey={"key": "s3cret"})

    assert made["apiKey"]["authorization_type"] == "bearer"
    (problem,) = made["toolProblems"]
    assert "header X-Key, query parameter api_key" in problem["reason"]
    assert "apiKey.authorization_type" in problem["reason"]


async def test_a_key_that_no_cookie_carries_is_a_bearer_token_and_told_of(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    secured(shop, COOKIE)

    made = await registered(rest, root, shop, name=fresh(), apiKey={"key": "a;b"})

    assert (made["status"], made["apiKey"]["authorization_type"]) == ("active", "bearer")
    assert "no cookie can have" in made["toolProblems"][0]["reason"]


async def test_each_users_own_key_goes_where_the_description_says(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    secured(shop, HEADER)
    slug = fresh()
    key = {"source": "user", "key": "mine"}

    made = await registered(rest, root, shop, name=slug, baseUrl=shop.api.url, apiKey=key)
    await rest.follow()
    await rest.call_tool(root, slug, "listPets")

    assert made["apiKey"]["custom_header"] == "X-Key"
    assert made["headers"] == {"X-Key": "{{MCP_API_KEY}}"}
    assert shop.api.seen[-1].headers["X-Key"] == "mine"
    assert "Authorization" not in shop.api.seen[-1].headers


async def test_an_operation_without_security_gets_no_credentials(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    secured(shop, HEADER)
    shop.paths["/pets"]["get"]["security"] = []
    slug = fresh()
    headers = {"X-Tenant": "acme", "X-Other-Secret": "hidden", "Cookie": "sid=1"}

    made = await registered(rest, root, shop, name=slug, apiKey={"key": "s3cret"}, headers=headers)
    tools = (await rest.ask(root, "GET", f"/apis/{made['id']}/tools")).json()
    await rest.follow()
    await rest.call_tool(root, slug, "listPets")
    await rest.call_tool(root, slug, "showPet", petId="1")

    without, with_key = (one.headers for one in shop.api.seen[-2:])
    assert without["X-Tenant"] == "acme"
    assert not {"X-Key", "X-Other-Secret", "Cookie", "Authorization"}.intersection(without)
    assert (with_key["X-Key"], with_key["X-Other-Secret"]) == ("s3cret", "hidden")
    assert tools["credentials"]["notSentBy"] == ["listPets"]


async def test_a_client_obtains_its_tokens_where_the_description_says(
    rest: Rest, root: UserContext, shop: Shop
) -> None:
    async with serving_oauth() as oauth:
        grants = ("client_credentials",)
        oauth.provider.clients["app"] = Client("app", "right", "client_secret_basic", (), grants)
        flow = {"tokenUrl": f"{oauth.issuer}/token", "scopes": {"read": "", "write": ""}}
        secured(shop, {"type": "oauth2", "flows": {"clientCredentials": flow}})
        shop.members["security"] = [{"scheme0": ["read"]}]
        slug = fresh()
        client = {
            "client_id": "app",
            "client_secret": "right",
            "token_exchange_method": "basic_auth_header",
        }

        made = await registered(rest, root, shop, name=slug, oauth=client)
        await rest.follow()
        await rest.call_tool(root, slug, "listPets")

    shown = made["oauth"]
    assert (shown["token_url"], shown["scope"]) == (flow["tokenUrl"], "read")
    assert shown["grant_types_supported"] == ["client_credentials"]
    assert made["requiresOAuth"] is True
    assert shop.called()[-1] == "GET /pets"
    authorization = shop.api.seen[-1].headers["Authorization"]
    assert authorization.startswith("Bearer ")
    assert rest.token(root) not in authorization


async def test_a_client_is_refused_where_no_scheme_says_where_its_tokens_are(
    rest: Rest, root: UserContext
) -> None:
    body = {
        "name": fresh(),
        "document": document(PETS),
        "oauth": {"client_id": "app", "client_secret": "right"},
    }

    answer = await rest.ask(root, "POST", "/apis", json=body)

    assert answer.status_code == 422
    assert "oauth.token_url" in answer.text
