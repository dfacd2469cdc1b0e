"""Who may call the servers API: bearer tokens over HTTP, good ones and all the others."""

import base64
import hashlib
import hmac
import json
from datetime import timedelta
from typing import Any

import httpx
import pytest
from bson import ObjectId
from jose import jwt

from registry.auth.errors import AUTHENTICATION_HELP, REALM
from registry.auth.identity import Role, Scope, UserContext
from tests.fakes.keys import write_key_pair
from tests.fakes.plain_upstream import plain_upstream
from tests.fakes.rest import JWT_SECRET, SERVERS, Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

URL = "http://127.0.0.1:9/mcp"
USER_ID = "d" * 24


@pytest.fixture(scope="module")
def other_key(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a private key that is not the registry's."""
    private, _ = write_key_pair(tmp_path_factory.mktemp("other"))
    return private.read_text()


def epoch(rest: Rest, **later: float) -> int:
    return int((rest.parts.clock.now() + timedelta(**later)).timestamp())


def claims(rest: Rest, **changed: object) -> dict[str, Any]:
    """Return claims that would be accepted, but for *changed*; None removes one."""
    settings = rest.parts.settings
    good: dict[str, Any] = {
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "user_id": USER_ID,
        "username": "dora",
        "role": "user",
        "scope": "read:servers",
        "service_account": True,
        "iat": epoch(rest),
        "exp": epoch(rest, minutes=5),
    }
    return {name: value for name, value in (good | changed).items() if value is not None}


def signed(rest: Rest, **changed: object) -> str:
    """Return a token signed with the registry's own key."""
    keys = rest.parts.keys
    return str(
        jwt.encode(
            claims(rest, **changed), keys.private_pem, algorithm="RS256", headers={"kid": keys.kid}
        )
    )


def jarvis(rest: Rest, user_id: str = USER_ID, secret: str = JWT_SECRET, **changed: object) -> str:
    """Return an access token as jarvis-api signs it."""
    payload = {"id": user_id, "username": "dora", "exp": epoch(rest, minutes=5)} | changed
    return str(jwt.encode(payload, secret, algorithm="HS256"))


def unsigned(header: dict[str, object], payload: dict[str, object], signature: str = "") -> str:
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in (header, payload)
    ]
    return ".".join([*parts, signature])


async def get(rest: Rest, token: str, path: str = "") -> httpx.Response:
    return await rest.client.get(SERVERS + path, headers={"Authorization": f"Bearer {token}"})


def assert_refused(answer: httpx.Response) -> None:
    assert answer.status_code == 401, answer.text
    assert answer.json()["error"] == "unauthorized"
    invalid = f'{REALM}, error="invalid_token", error_description="{answer.json()["message"]}"'
    assert answer.headers["WWW-Authenticate"] == invalid


@pytest.mark.requirement("R-138")
async def test_a_request_without_a_token_is_told_where_to_get_one(rest: Rest) -> None:
    answer = await rest.client.get(SERVERS)

    assert (answer.status_code, answer.json()) == (
        401,
        {"error": "unauthorized", "message": f"A bearer token is required. {AUTHENTICATION_HELP}"},
    )
    assert answer.headers["WWW-Authenticate"] == REALM


@pytest.mark.requirement("R-110")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("POST", ""),
        ("GET", "/stats"),
        ("POST", "/connection"),
        ("GET", f"/{USER_ID}"),
        ("PATCH", f"/{USER_ID}"),
        ("PUT", f"/{USER_ID}"),
        ("DELETE", f"/{USER_ID}"),
        ("POST", f"/{USER_ID}/toggle"),
        ("GET", f"/{USER_ID}/tools"),
        ("POST", f"/{USER_ID}/refresh"),
    ],
)
async def test_every_route_needs_a_token(rest: Rest, method: str, path: str) -> None:
    answer = await rest.client.request(method, SERVERS + path, json={})

    assert answer.status_code == 401


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer ",
        "Bearer garbage",
        "Bearer a.b.c",
        "Bearer ..",
        "Basic dXNlcjpwYXNz",
        "Token abc",
        "Bearer " + "x" * 9000,
        b"Bearer \xff\xfe.\xff.\xff",
        "Bearer eyJhbGciOiJub25lIn0.e30.",
        "Bearer eyJhbGciOiJSUzI1NiJ9.bm90IGpzb24.c2ln",
    ],
)
async def test_garbage_is_refused(rest: Rest, header: str | bytes) -> None:
    raw = header if isinstance(header, bytes) else header.encode()

    answer = await rest.client.get(SERVERS, headers=[(b"Authorization", raw)])

    assert_refused(answer)


async def test_two_tokens_are_refused(rest: Rest, alice: UserContext) -> None:
    one = ("Authorization", f"Bearer {rest.token(alice)}")

    answer = await rest.client.get(SERVERS, headers=[one, one])

    assert_refused(answer)


async def test_the_schemes_name_may_be_written_in_any_case(rest: Rest) -> None:
    answer = await rest.client.get(SERVERS, headers={"Authorization": f"bEARER {signed(rest)}"})

    assert answer.status_code == 200


@pytest.mark.requirement("R-240")
@pytest.mark.parametrize(
    "changed",
    [
        {"exp": 1},
        {"exp": None},
        {"exp": "soon"},
        {"iat": None},
        {"aud": "somebody-else"},
        {"aud": None},
        {"iss": "somebody-else"},
        {"iss": None},
        {"nbf": 4_000_000_000},
        {"user_id": None},
        {"user_id": "me"},
        {"user_id": {"$gt": ""}},
        {"role": None},
        {"scope": None},
    ],
)
async def test_a_token_of_ours_with_wrong_claims_is_refused(
    rest: Rest, changed: dict[str, object]
) -> None:
    assert_refused(await get(rest, signed(rest, **changed)))


async def test_a_token_that_is_not_signed_is_refused(rest: Rest) -> None:
    for algorithm in ("none", "None", "NONE", ""):
        assert_refused(await get(rest, unsigned({"alg": algorithm}, claims(rest))))


async def test_a_token_signed_with_another_key_is_refused(rest: Rest, other_key: str) -> None:
    kid = {"kid": rest.parts.keys.kid}

    token = jwt.encode(claims(rest), other_key, algorithm="RS256", headers=kid)

    assert_refused(await get(rest, token))


async def test_a_token_that_names_no_key_or_another_is_refused(rest: Rest) -> None:
    private = rest.parts.keys.private_pem

    anonymous = jwt.encode(claims(rest), private, algorithm="RS256")
    misnamed = jwt.encode(claims(rest), private, algorithm="RS256", headers={"kid": "other"})

    assert_refused(await get(rest, anonymous))
    assert_refused(await get(rest, misnamed))


async def test_the_public_key_is_no_shared_secret(rest: Rest) -> None:
    public = rest.parts.keys.public_pem
    header: dict[str, object] = {"alg": "HS256", "typ": "JWT", "kid": rest.parts.keys.kid}
    # The library refuses to sign with a PEM key, so the forger signs by hand.
    unsigned_token = unsigned(header, claims(rest) | {"id": USER_ID})
    forged = unsigned_token + _hmac(public.encode(), unsigned_token.rstrip("."))

    assert_refused(await get(rest, forged))


@pytest.mark.parametrize("algorithm", ["RS384", "RS512"])
async def test_algorithms_besides_the_two_are_refused(rest: Rest, algorithm: str) -> None:
    keys = rest.parts.keys

    token = jwt.encode(
        claims(rest), keys.private_pem, algorithm=algorithm, headers={"kid": keys.kid}
    )

    assert_refused(await get(rest, token))


async def test_a_changed_token_is_refused(rest: Rest) -> None:
    header, _, signature = signed(rest).split(".")
    _, payload, _ = signed(rest, role="admin").split(".")

    assert_refused(await get(rest, f"{header}.{payload}.{signature}"))


async def test_a_token_is_refused_the_moment_it_has_expired(rest: Rest) -> None:
    leeway = rest.parts.settings.jwt_leeway_seconds

    within = await get(rest, signed(rest, exp=epoch(rest, seconds=2 - leeway)))
    beyond = await get(rest, signed(rest, exp=epoch(rest, seconds=-2 - leeway)))

    assert within.status_code == 200
    assert_refused(beyond)


async def test_a_missing_scope_is_named_in_the_challenge_and_the_body(rest: Rest) -> None:
    token = signed(rest, scope="read:tools")

    answer = await get(rest, token, f"/{USER_ID}/tools")

    assert (answer.status_code, answer.json()) == (
        403,
        {
            "error": "insufficient_scope",
            "message": "The token needs the scope read:servers read:tools.",
            "scope": "read:servers read:tools",
        },
    )
    assert answer.headers["WWW-Authenticate"] == (
        f'{REALM}, error="insufficient_scope", scope="read:servers read:tools"'
    )


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "", {"serverName": "s", "url": URL}),
        ("POST", "/connection", {"url": URL}),
        ("PATCH", f"/{USER_ID}", {}),
        ("PUT", f"/{USER_ID}", {}),
        ("DELETE", f"/{USER_ID}", None),
        ("POST", f"/{USER_ID}/toggle", {"enabled": True}),
        ("POST", f"/{USER_ID}/refresh", None),
    ],
)
async def test_a_token_for_reading_changes_nothing(
    rest: Rest, method: str, path: str, body: dict[str, object] | None
) -> None:
    reader = UserContext(USER_ID, "dora", Role.USER, frozenset({Scope.READ_SERVERS}))

    answer = await rest.call(reader, method, path, json=body)

    assert (answer.status_code, answer.json()["scope"]) == (403, "write:servers")


async def test_unknown_scopes_of_a_token_grant_nothing(rest: Rest) -> None:
    answer = await get(rest, signed(rest, scope="admin * read:*"))

    assert (answer.status_code, answer.json()["scope"]) == (403, "read:servers")


async def store_user(rest: Rest, fields: dict[str, object]) -> None:
    users = rest.parts.database.collection("users")
    await users.insert_one({"_id": ObjectId(USER_ID), "username": "dora", **fields})


@pytest.mark.requirement("R-241")
@pytest.mark.parametrize(
    ("role", "status"), [("ADMIN", 200), ("admin", 200), ("USER", 403), ("root", 403), (None, 403)]
)
async def test_a_jarvis_user_has_the_role_that_users_says(
    rest: Rest, role: str | None, status: int
) -> None:
    await store_user(rest, {"role": role})

    answer = await get(rest, jarvis(rest), "/stats")

    assert answer.status_code == status


async def test_a_jarvis_token_cannot_give_itself_a_role(rest: Rest) -> None:
    await store_user(rest, {"role": "USER"})

    answer = await get(rest, jarvis(rest, role="ADMIN", scope="write:access"), "/stats")

    assert answer.status_code == 403


async def test_a_jarvis_token_of_nobody_is_refused(rest: Rest) -> None:
    assert_refused(await get(rest, jarvis(rest)))


@pytest.mark.parametrize(
    "changed",
    [
        {"secret": "another secret"},
        {"exp": 1},
        {"exp": None},
        {"sessionId": "e" * 24},
        {"iss": "mcp-gateway-registry"},
        {"user_id": "nobody"},
    ],
)
async def test_a_jarvis_token_that_is_no_access_token_is_refused(
    rest: Rest, changed: dict[str, Any]
) -> None:
    await store_user(rest, {"role": "USER"})

    assert_refused(await get(rest, jarvis(rest, **changed)))


@pytest.mark.requirement("R-242")
@pytest.mark.parametrize(
    ("user", "members"),
    [
        ({"idOnTheSource": "entra-7"}, ["entra-7"]),
        ({}, [USER_ID]),
    ],
)
async def test_a_jarvis_user_sees_what_is_shared_with_their_groups(
    rest: Rest, root: UserContext, user: dict[str, str], members: list[str]
) -> None:
    created = await rest.register(root, "team", URL, scope="shared_user")
    await store_user(rest, {"role": "USER", **user})
    group = await rest.parts.database.collection("groups").insert_one({"memberIds": members})
    await rest.parts.database.collection("aclentries").insert_one(
        {
            "principalType": "group",
            "principalId": group.inserted_id,
            "resourceType": "mcpServer",
            "resourceId": ObjectId(created["id"]),
            "permBits": 1,
        }
    )
    await rest.follow()

    answer = await get(rest, jarvis(rest))

    assert [server["serverName"] for server in answer.json()["servers"]] == ["team"]


async def test_a_jarvis_user_who_left_a_group_there_is_no_member_here(
    rest: Rest, root: UserContext
) -> None:
    # Their own id stays in `memberIds` while the source's is what counts, and was removed.
    created = await rest.register(root, "team", URL, scope="shared_user")
    await store_user(rest, {"role": "USER", "idOnTheSource": "entra-7"})
    groups = rest.parts.database.collection("groups")
    group = await groups.insert_one({"memberIds": [USER_ID]})
    await rest.parts.database.collection("aclentries").insert_one(
        {
            "principalType": "group",
            "principalId": group.inserted_id,
            "resourceType": "mcpServer",
            "resourceId": ObjectId(created["id"]),
            "permBits": 1,
        }
    )

    listed = await get(rest, jarvis(rest))
    detail = await get(rest, jarvis(rest), f"/{created['id']}")

    assert (listed.json()["pagination"]["total"], detail.status_code) == (0, 404)


@pytest.mark.parametrize("role", ["USER", "ADMIN"])
async def test_a_jarvis_user_sees_what_is_of_their_tenant(rest: Rest, role: str) -> None:
    def server(name: str, **fields: object) -> dict[str, object]:
        config = {"url": URL, "type": "streamable-http"}
        return {"serverName": name, "config": config, "author": ObjectId(), **fields}

    servers = rest.parts.database.collection("mcpservers")
    stored = await servers.insert_many(
        [
            server("own", scope="shared_app", tenantId="acme"),
            server("theirs", scope="shared_app", tenantId="other"),
            server("nobodys", scope="shared_app"),
        ]
    )
    await rest.parts.database.collection("users").insert_one(
        {"_id": ObjectId(), "name": "Ann Otherwise", "tenantId": "other"}
    )
    await store_user(rest, {"role": role, "tenantId": "acme", "name": "Dora Otherwise"})
    token = jarvis(rest)
    await rest.follow()

    names = [item["serverName"] for item in (await get(rest, token)).json()["servers"]]
    details = [(await get(rest, token, f"/{key}")).status_code for key in stored.inserted_ids]
    found = await rest.client.get(
        "/api/v1/permissions/search-principals",
        params={"q": "otherwise"},
        headers={"Authorization": f"Bearer {token}"},
    )

    assert (names, details) == (["own"], [200, 404, 404])
    assert [one["name"] for one in found.json()["results"]] == ["Dora Otherwise"]


async def test_an_administrator_of_a_tenant_finds_no_tools_of_another_one(
    rest: Rest, root: UserContext
) -> None:
    async with plain_upstream() as upstream:
        await rest.register(root, "theirs", upstream.url, scope="shared_app")
    await store_user(rest, {"role": "ADMIN", "tenantId": "acme"})
    headers = {"Authorization": f"Bearer {jarvis(rest)}"}

    found = await rest.client.get("/api/v1/registry/tools", headers=headers)
    everything = await rest.ask(root, "GET", "/registry/tools")

    assert found.json()["tools"] == []
    assert [tool["name"] for tool in everything.json()["tools"]] == ["echo"]


async def test_a_server_registered_by_a_user_of_a_tenant_is_of_that_tenant(rest: Rest) -> None:
    await store_user(rest, {"role": "ADMIN", "tenantId": "acme"})
    headers = {"Authorization": f"Bearer {jarvis(rest)}"}

    answer = await rest.client.post(
        SERVERS, json={"serverName": "mine", "url": URL}, headers=headers
    )
    shown = await get(rest, jarvis(rest), f"/{answer.json()['id']}")

    stored = await rest.parts.database.collection("mcpservers").find_one({"serverName": "mine"})
    assert stored is not None
    assert (answer.status_code, shown.status_code, stored["tenantId"]) == (201, 200, "acme")


async def test_a_shared_server_is_hidden_from_users_without_a_grant(
    rest: Rest, root: UserContext
) -> None:
    created = await rest.register(root, "team", URL, scope="shared_user")
    await store_user(rest, {"role": "USER"})

    listed = await get(rest, jarvis(rest))
    detail = await get(rest, jarvis(rest), f"/{created['id']}")

    assert (listed.json()["pagination"]["total"], detail.status_code) == (0, 404)


@pytest.mark.requirement("R-249")
async def test_a_demoted_user_loses_the_rights_with_what_is_remembered(rest: Rest) -> None:
    await store_user(rest, {"role": "ADMIN"})
    token = jarvis(rest)
    first = await get(rest, token, "/stats")

    users = rest.parts.database.collection("users")
    await users.update_one({"_id": ObjectId(USER_ID)}, {"$set": {"role": "USER"}})
    rest.parts.authenticator.forget_users()
    later = await get(rest, token, "/stats")

    assert [first.status_code, later.status_code] == [200, 403]


async def test_the_published_keys_verify_our_tokens(rest: Rest) -> None:
    published = (await rest.client.get("/.well-known/jwks.json")).json()["keys"]

    verified = jwt.decode(signed(rest), published[0], algorithms=["RS256"], audience="mcp-gateway")

    assert verified["user_id"] == USER_ID
    assert {"d", "p", "q"}.isdisjoint(published[0])


@pytest.mark.parametrize(
    ("path", "resource"),
    [("", "http://127.0.0.1:7860"), ("/mcp/any", "http://127.0.0.1:7860/mcp/any")],
)
async def test_the_metadata_names_the_resource_it_was_asked_about(
    rest: Rest, path: str, resource: str
) -> None:
    answer = (await rest.client.get(f"/.well-known/oauth-protected-resource{path}")).json()

    assert answer["resource"] == resource
    assert answer["bearer_methods_supported"] == ["header"]
    assert "write:servers" in answer["scopes_supported"]


def _hmac(key: bytes, message: str) -> str:
    digest = hmac.new(key, message.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("body", "kind"), [("{", "application/json"), ("{}", "text/plain"), ("[]", "application/json")]
)
async def test_a_stranger_is_not_told_what_is_wrong_with_a_body(
    rest: Rest, body: str, kind: str
) -> None:
    answer = await rest.client.post(SERVERS, content=body, headers={"Content-Type": kind})

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == REALM


async def test_a_body_is_not_looked_at_when_the_token_does_not_allow_writing(rest: Rest) -> None:
    answer = await rest.client.post(
        SERVERS,
        content="{",
        headers={
            "Content-Type": "application/json",
            "Authorization": f"Bearer {signed(rest)}",
        },
    )

    assert (answer.status_code, answer.json()["error"]) == (403, "insufficient_scope")


async def test_a_token_from_the_future_is_refused(rest: Rest) -> None:
    await rest.parts.database.collection("users").insert_one(
        {"_id": ObjectId(USER_ID), "username": "dora", "role": "USER"}
    )
    later, end = epoch(rest, hours=1), epoch(rest, hours=2)
    tokens = [signed(rest, iat=later, exp=end), jarvis(rest, iat=later, exp=end)]

    answers = [
        await rest.client.get(SERVERS, headers={"Authorization": f"Bearer {token}"})
        for token in tokens
    ]

    assert [(answer.status_code, "future" in answer.text) for answer in answers] == [
        (401, True)
    ] * 2
