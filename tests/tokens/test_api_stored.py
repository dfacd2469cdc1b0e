"""Stored tokens over HTTP, on a real database."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from bson import ObjectId, json_util
from structlog.testing import capture_logs

from packages.database.client import Doc, Transaction
from packages.database.errors import DatabaseUnavailable
from registry.audit.repository import AuditRepository
from registry.auth.identity import UserContext
from registry.wiring.keys import build_cipher
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

SENTINEL = "gho_s3ntinel-s3ntinel"
REFRESH_SENTINEL = "ghr_s3ntinel-s3ntinel"
ABSENT = "9" * 24
METADATA = {
    "server_id": "674e1a2b3c4d5e6f7a8b9c0d",
    "server_name": "github_server",
    "scope": "repo read:user",
    "token_type": "Bearer",
    "access_token_id": "e" * 24,
    "own": {"deep": [1, None, {"x.y": True}], "big": 2**63 - 1},
}
GONE = {"error": "not_found", "message": "Token not found or expired"}


def later(rest: Rest, **ahead: float) -> str:
    moment = rest.parts.clock.now() + timedelta(**(ahead or {"hours": 8}))
    return moment.replace(microsecond=0).isoformat().replace("+00:00", "Z")


def body(rest: Rest, **changed: Any) -> dict[str, Any]:
    whole = {
        "type": "oauth_access",
        "identifier": "github_mcp_server",
        "token": SENTINEL,
        "expires_at": later(rest),
        **changed,
    }
    return {name: value for name, value in whole.items() if value is not None}


async def store(rest: Rest, user: UserContext, **changed: Any) -> dict[str, Any]:
    answer = await rest.ask(user, "POST", "/tokens", json=body(rest, **changed))
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def pair(rest: Rest, user: UserContext, **changed: Any) -> tuple[str, str]:
    """Store a refresh and an access token that names it; return the ids, access first."""
    refresh = await store(
        rest,
        user,
        type="oauth_refresh",
        identifier="github_mcp_server_refresh",
        token=REFRESH_SENTINEL,
        **changed,
    )
    metadata = {**changed.get("metadata", {}), "refresh_token_id": refresh["id"]}
    access = await store(rest, user, **{**changed, "metadata": metadata})
    return access["id"], refresh["id"]


async def read(rest: Rest, user: UserContext, token_id: str) -> dict[str, Any]:
    answer = await rest.ask(user, "GET", f"/tokens/{token_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def refresh(rest: Rest, user: UserContext, token_id: str, **changed: Any) -> httpx.Response:
    sent = {"new_access_token": "new", "new_expires_at": later(rest, hours=9), **changed}
    return await rest.ask(user, "PUT", f"/tokens/{token_id}/refresh", json=sent)


async def rows(rest: Rest, **query: Any) -> list[Doc]:
    return await rest.parts.database.collection("tokens").find(query).to_list()


async def let_expire(rest: Rest, token_id: str) -> None:
    await rest.parts.database.collection("tokens").update_one(
        {"_id": ObjectId(token_id)},
        {"$set": {"expiresAt": rest.parts.clock.now() - timedelta(milliseconds=1)}},
    )


async def sweep(rest: Rest, token_id: str) -> None:
    """Do what the TTL index does in its own time."""
    await rest.parts.database.collection("tokens").delete_one({"_id": ObjectId(token_id)})


async def records(rest: Rest) -> list[Doc]:
    found = rest.parts.database.collection("audit_logs").find({"entity_type": "token"})
    return await found.sort("timestamp").to_list()


async def write_as_jarvis(rest: Rest, user: UserContext, kind: str, identifier: str) -> str:
    now = rest.parts.clock.now()
    result = await rest.parts.database.collection("tokens").insert_one(
        {
            "userId": ObjectId(user.user_id),
            "type": kind,
            "identifier": identifier,
            "token": build_cipher(rest.parts.settings).encrypt_shared(SENTINEL),
            "createdAt": now,
            "expiresAt": now + timedelta(hours=1),
            "__v": 0,
        }
    )
    return str(result.inserted_id)


@pytest.mark.requirement("R-260")
@pytest.mark.requirement("R-261")
@pytest.mark.requirement("R-319")
async def test_a_token_is_stored_and_read(rest: Rest, alice: UserContext) -> None:
    sent = body(rest, metadata=METADATA)
    stored = await rest.ask(alice, "POST", "/tokens", json=sent)
    answer = await rest.ask(alice, "GET", f"/tokens/{stored.json()['id']}")

    created = stored.json()
    assert stored.status_code == 201
    assert SENTINEL not in stored.text
    assert created == {
        "id": created["id"],
        "type": "oauth_access",
        "identifier": "github_mcp_server",
        "created_at": created["created_at"],
        "expires_at": sent["expires_at"],
    }
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {
        **created,
        "user_id": alice.user_id,
        "token": SENTINEL,
        "metadata": METADATA,
    }


@pytest.mark.requirement("R-269")
async def test_times_are_normalised_to_utc(rest: Rest, alice: UserContext) -> None:
    stored = await store(rest, alice, expires_at="2098-06-01T02:30:00.1234+02:30")

    assert stored["expires_at"] == "2098-06-01T00:00:00.123Z"


async def test_without_an_expiry_it_is_a_year(rest: Rest, alice: UserContext) -> None:
    stored = await store(rest, alice, expires_at=None)

    lifetime = datetime.fromisoformat(stored["expires_at"]) - rest.parts.clock.now()
    assert timedelta(days=364) < lifetime <= timedelta(days=365)


def deep(levels: int) -> dict[str, Any]:
    return {"a": deep(levels - 1)} if levels else {}


@pytest.mark.requirement("R-269")
@pytest.mark.parametrize(
    "changed",
    [
        {"expires_at": "2020-01-01T00:00:00Z"},
        {"expires_at": "2098-01-01T00:00:00"},
        {"expires_at": "2098-01-01"},
        {"expires_at": "tomorrow"},
        {"expires_at": 4_000_000_000},
        {"expires_at": "4000000000"},
        {"expires_at": "9999-01-01T00:00:00Z"},
        {"expires_at": "9999-12-31T23:59:59-23:59"},
        {"expires_at": "0001-01-01T00:00:00+23:59"},
        {"type": "mcp_oauth"},
        {"type": "session"},
        {"identifier": ""},
        {"identifier": "a\nb"},
        {"identifier": "a" * 257},
        {"token": ""},
        {"token": "a\x00b"},
        {"token": "a" * 65_537},
        {"token": "ä" * 40_000},
        {"token": 1},
        {"user_id": "b" * 24},
        {"metadata": []},
        {"metadata": {"a.b": 1}},
        {"metadata": {"$a": 1}},
        {"metadata": {"": 1}},
        {"metadata": {"a": {"$ref": 1}}},
        {"metadata": {"a": "\x00"}},
        {"metadata": {"a": {"\x00": 1}}},
        {"metadata": {"a": 2**63}},
        {"metadata": {"a": "x" * 17_000}},
        {"metadata": deep(17)},
        {"metadata": {"server_name": "a\nb"}},
        {"metadata": {"server_name": "a" * 257}},
        {"token": "***"},
        {"metadata": {"refresh_token_id": {"$ne": None}}},
        {"metadata": {"refresh_token_id": ["9" * 24]}},
    ],
    ids=lambda changed: str(changed)[:60],
)
async def test_what_cannot_be_stored_is_refused(
    rest: Rest, alice: UserContext, changed: dict[str, Any]
) -> None:
    answer = await rest.ask(alice, "POST", "/tokens", json=body(rest, **changed))

    assert (answer.status_code, answer.json()["error"]) == (422, "validation_error")
    assert SENTINEL not in answer.text
    assert await rows(rest) == []
    refused = await records(rest)
    assert [record["outcome"] for record in refused] == ["failed"]
    assert SENTINEL not in str(refused)


async def test_a_number_beyond_all_bounds_is_refused(rest: Rest, alice: UserContext) -> None:
    text = '{"type":"api_key","identifier":"a","token":"t","metadata":{"n":1e999}}'

    answer = await rest.ask(
        alice, "POST", "/tokens", content=text, headers={"Content-Type": "application/json"}
    )

    assert answer.status_code in {400, 422}


@pytest.mark.requirement("R-093")
async def test_storing_again_replaces(rest: Rest, alice: UserContext) -> None:
    first = await store(rest, alice)
    second = await store(rest, alice, token="newer", metadata={"scope": "b"})

    detail = await read(rest, alice, first["id"])
    assert second["id"] == first["id"]
    assert (detail["token"], detail["metadata"]) == ("newer", {"scope": "b"})
    assert len(await rows(rest)) == 1


@pytest.mark.requirement("R-093")
async def test_twenty_that_store_the_same_token_at_once_leave_one(
    rest: Rest, alice: UserContext
) -> None:
    answers = await asyncio.gather(
        *(
            rest.ask(alice, "POST", "/tokens", json=body(rest, token=f"t{number}"))
            for number in range(20)
        )
    )

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(await rows(rest)) == 1
    assert len(await records(rest)) == 20


@pytest.mark.requirement("R-262")
async def test_a_list_has_pages_and_no_values(rest: Rest, alice: UserContext) -> None:
    ids = [(await store(rest, alice, identifier=f"t{number}"))["id"] for number in range(5)]

    answer = await rest.ask(alice, "GET", "/tokens", params={"page": 2, "per_page": 2})

    assert SENTINEL not in answer.text
    assert [token["id"] for token in answer.json()["tokens"]] == [ids[2], ids[1]]
    assert answer.json()["tokens"][0].keys() == {
        "id",
        "type",
        "identifier",
        "created_at",
        "expires_at",
        "metadata",
    }
    assert answer.json()["pagination"] == {
        "total": 5,
        "page": 2,
        "per_page": 2,
        "total_pages": 3,
    }


@pytest.mark.requirement("R-262")
async def test_a_list_is_empty_or_fifty_long_by_itself(rest: Rest, alice: UserContext) -> None:
    answer = await rest.ask(alice, "GET", "/tokens")

    assert answer.json() == {
        "tokens": [],
        "pagination": {"total": 0, "page": 1, "per_page": 50, "total_pages": 0},
    }


@pytest.mark.requirement("R-262")
@pytest.mark.parametrize(
    "params",
    [
        {"per_page": 0},
        {"per_page": 101},
        {"page": 0},
        {"page": 10**7},
        {"type": "mcp_oauth"},
        {"identifier": "a" * 300},
        {"identifier": "a\nb"},
    ],
    ids=str,
)
async def test_a_list_is_not_asked_for_anyhow(
    rest: Rest, alice: UserContext, params: dict[str, Any]
) -> None:
    assert (await rest.ask(alice, "GET", "/tokens", params=params)).status_code == 422


@pytest.mark.requirement("R-091")
@pytest.mark.requirement("R-262")
async def test_lists_are_narrowed_by_type_and_identifier_in_either_form(
    rest: Rest, alice: UserContext
) -> None:
    own = await store(rest, alice, identifier="weather")
    key = await store(rest, alice, type="api_key", identifier="weather")
    named = await store(rest, alice, identifier="mine", metadata={"server_name": "a"})
    theirs = await write_as_jarvis(rest, alice, "mcp_oauth", "mcp:weather")
    their_refresh = await write_as_jarvis(rest, alice, "mcp_oauth_refresh", "mcp:weather:refresh")

    async def found(**params: str) -> set[str]:
        answer = await rest.ask(alice, "GET", "/tokens", params=params)
        return {token["id"] for token in answer.json()["tokens"]}

    assert await found(identifier="weather") == {own["id"], key["id"], theirs}
    assert await found(identifier="weather", type="api_key") == {key["id"]}
    assert await found(identifier="weather_refresh") == {their_refresh}
    assert await found(identifier="mine") == {named["id"]}
    assert await found(identifier="a") == set()
    assert await found(type="oauth_access") == {own["id"], named["id"], theirs}
    assert await found(type="oauth_refresh") == {their_refresh}


@pytest.mark.requirement("R-260")
async def test_tokens_of_a_server_are_stored_where_jarvis_looks_for_them(
    rest: Rest, alice: UserContext
) -> None:
    await pair(rest, alice, metadata={"server_name": "weather"})

    cipher = build_cipher(rest.parts.settings)
    found = {(row["type"], row["identifier"]): row for row in await rows(rest)}
    assert found.keys() == {
        ("mcp_oauth", "mcp:weather"),
        ("mcp_oauth_refresh", "mcp:weather:refresh"),
    }
    access = found["mcp_oauth", "mcp:weather"]
    assert cipher.decrypt(access["token"], None) == SENTINEL  # type: ignore[arg-type]  # names no place
    assert access["registry"]["identifier"] == "github_mcp_server"


@pytest.mark.requirement("R-260")
@pytest.mark.parametrize(
    ("kind", "identifier", "shown"),
    [
        ("mcp_oauth", "mcp:weather", ("oauth_access", "weather")),
        ("mcp_oauth_refresh", "mcp:weather:refresh", ("oauth_refresh", "weather_refresh")),
    ],
)
async def test_a_token_that_jarvis_wrote_is_read_and_stored_back_in_place(
    rest: Rest, alice: UserContext, kind: str, identifier: str, shown: tuple[str, str]
) -> None:
    token_id = await write_as_jarvis(rest, alice, kind, identifier)

    detail = await read(rest, alice, token_id)
    names = ("type", "identifier", "token", "expires_at", "metadata")
    back = {name: detail[name] for name in names}
    stored = await rest.ask(alice, "POST", "/tokens", json=back)

    assert (detail["type"], detail["identifier"]) == shown
    assert (detail["token"], detail["metadata"]) == (SENTINEL, {"server_name": "weather"})
    assert stored.json()["id"] == token_id
    (row,) = await rows(rest)
    assert (row["type"], row["identifier"]) == (kind, identifier)


@pytest.mark.requirement("R-091")
async def test_tokens_of_other_kinds_are_invisible(rest: Rest, alice: UserContext) -> None:
    ids = [
        await write_as_jarvis(rest, alice, "mcp_oauth_client", "mcp:weather:client"),
        await write_as_jarvis(rest, alice, "email_verification", "x"),
    ]
    before = json_util.dumps(await rows(rest))

    answers = [
        answer.status_code
        for token_id in ids
        for answer in (
            await rest.ask(alice, "GET", f"/tokens/{token_id}"),
            await rest.ask(alice, "DELETE", f"/tokens/{token_id}"),
            await refresh(rest, alice, token_id),
        )
    ]

    assert answers == [404] * 6
    assert (await rest.ask(alice, "GET", "/tokens")).json()["pagination"]["total"] == 0
    assert json_util.dumps(await rows(rest)) == before


@pytest.mark.requirement("R-268")
async def test_nobody_reaches_anothers_token_not_even_an_administrator(
    rest: Rest, alice: UserContext, bob: UserContext, root: UserContext
) -> None:
    stored = await store(rest, alice, metadata={"server_name": "weather"})
    path = f"/tokens/{stored['id']}"

    for other in (bob, root):
        assert (await rest.ask(other, "GET", path)).json() == GONE
        assert (await rest.ask(other, "DELETE", path)).status_code == 404
        assert (await refresh(rest, other, stored["id"])).status_code == 404
        assert (await rest.ask(other, "GET", "/tokens")).json()["tokens"] == []
        linked = body(rest, type="oauth_refresh", metadata={"access_token_id": stored["id"]})
        # Kept as any metadata, and good for nothing.
        assert (await rest.ask(other, "POST", "/tokens", json=linked)).status_code == 201
        assert (await refresh(rest, other, stored["id"])).status_code == 404

    assert (await read(rest, alice, stored["id"]))["token"] == SENTINEL
    await rest.parts.database.collection("tokens").delete_one({"_id": ObjectId(stored["id"])})
    assert (await refresh(rest, bob, stored["id"])).status_code == 404


@pytest.mark.requirement("R-096")
@pytest.mark.requirement("R-261")
async def test_an_expired_token_is_gone_before_it_is_swept(rest: Rest, alice: UserContext) -> None:
    stored = await store(rest, alice)
    await let_expire(rest, stored["id"])
    path = f"/tokens/{stored['id']}"

    assert (await rest.ask(alice, "GET", path)).json() == GONE
    assert (await rest.ask(alice, "GET", f"/tokens/{ABSENT}")).json() == GONE
    assert (await rest.ask(alice, "GET", "/tokens")).json()["tokens"] == []
    assert (await rest.ask(alice, "DELETE", path)).status_code == 404
    assert (await refresh(rest, alice, stored["id"])).status_code == 404


@pytest.mark.requirement("R-264")
async def test_a_token_is_deleted_once(rest: Rest, alice: UserContext) -> None:
    stored = await store(rest, alice)

    first = await rest.ask(alice, "DELETE", f"/tokens/{stored['id']}")
    second = await rest.ask(alice, "DELETE", f"/tokens/{stored['id']}")

    assert (first.status_code, first.content) == (204, b"")
    assert second.status_code == 404
    assert second.json() == {"error": "not_found", "message": "Token not found"}


@pytest.mark.requirement("R-095")
async def test_a_link_has_two_ends_and_goes_with_either(rest: Rest, alice: UserContext) -> None:
    access, refresh_id = await pair(rest, alice)

    linked = await read(rest, alice, refresh_id)
    await rest.ask(alice, "DELETE", f"/tokens/{refresh_id}")
    after = await read(rest, alice, access)

    assert linked["metadata"] == {"access_token_id": access}
    assert after["metadata"] == {}


@pytest.mark.requirement("R-095")
async def test_a_refresh_token_that_names_its_access_token_is_linked_as_well(
    rest: Rest, alice: UserContext
) -> None:
    access = await store(rest, alice)
    metadata = {"access_token_id": access["id"]}
    refresh_token = await store(rest, alice, type="oauth_refresh", metadata=metadata)

    assert (await read(rest, alice, access["id"]))["metadata"] == {
        "refresh_token_id": refresh_token["id"]
    }


@pytest.mark.requirement("R-095")
async def test_a_token_has_one_partner_at_a_time(rest: Rest, alice: UserContext) -> None:
    first, refresh_id = await pair(rest, alice)

    second = await store(rest, alice, identifier="b", metadata={"refresh_token_id": refresh_id})

    assert (await read(rest, alice, first))["metadata"] == {}
    assert (await read(rest, alice, refresh_id))["metadata"] == {"access_token_id": second["id"]}


@pytest.mark.requirement("R-095")
async def test_a_token_stored_again_without_its_link_has_none(
    rest: Rest, alice: UserContext
) -> None:
    _, refresh_id = await pair(rest, alice)

    await store(rest, alice, metadata={})

    assert (await read(rest, alice, refresh_id))["metadata"] == {}


@pytest.mark.requirement("R-095")
async def test_other_ids_than_of_live_tokens_of_the_right_kind_are_kept_and_link_nothing(
    rest: Rest, alice: UserContext
) -> None:
    key = await store(rest, alice, type="api_key")
    _, refresh_id = await pair(rest, alice)
    await let_expire(rest, refresh_id)

    for token_id in (key["id"], refresh_id, ABSENT, "no id"):
        metadata = {"refresh_token_id": token_id}
        stored = await store(rest, alice, metadata=metadata)
        assert (await read(rest, alice, stored["id"]))["metadata"] == metadata

    assert (await read(rest, alice, key["id"]))["metadata"] == {}


@pytest.mark.requirement("R-095")
@pytest.mark.requirement("R-263")
async def test_refreshing_replaces_both_tokens_in_one_step(rest: Rest, alice: UserContext) -> None:
    access, refresh_id = await pair(rest, alice, metadata={"scope": "repo"})

    answer = await refresh(
        rest,
        alice,
        access,
        new_expires_at="2098-06-01T00:00:00Z",
        new_refresh_token="newer",
        new_refresh_expires_at="2099-06-01T00:00:00Z",
    )

    refreshed = answer.json()
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert refreshed == {
        "id": access,
        "type": "oauth_access",
        "identifier": "github_mcp_server",
        "token": "new",
        "expires_at": "2098-06-01T00:00:00Z",
        "updated_at": refreshed["updated_at"],
    }
    first, second = await read(rest, alice, access), await read(rest, alice, refresh_id)
    assert (first["token"], second["token"]) == ("new", "newer")
    assert first["metadata"] == {"scope": "repo", "refresh_token_id": refresh_id}
    assert second["metadata"] == {"scope": "repo", "access_token_id": access}
    assert second["expires_at"] == "2099-06-01T00:00:00Z"


@pytest.mark.requirement("R-263")
async def test_without_a_new_refresh_token_the_old_one_stays(
    rest: Rest, alice: UserContext
) -> None:
    access, refresh_id = await pair(rest, alice)
    before = await read(rest, alice, refresh_id)

    await refresh(rest, alice, access)

    assert await read(rest, alice, refresh_id) == before


@pytest.mark.requirement("R-263")
@pytest.mark.parametrize(
    ("metadata", "stored"),
    [
        ({}, ("oauth_refresh", "github_mcp_server_refresh")),
        ({"server_name": "weather"}, ("mcp_oauth_refresh", "mcp:weather:refresh")),
    ],
    ids=["own", "of a server"],
)
async def test_a_first_refresh_token_is_stored_and_linked(
    rest: Rest, alice: UserContext, metadata: dict[str, str], stored: tuple[str, str]
) -> None:
    access = await store(rest, alice, metadata=metadata)

    await refresh(rest, alice, access["id"], new_refresh_token="first")

    (row,) = await rows(rest, type=stored[0])
    detail = await read(rest, alice, str(row["_id"]))
    assert row["identifier"] == stored[1]
    assert (detail["identifier"], detail["token"]) == ("github_mcp_server_refresh", "first")
    assert detail["metadata"] == {**metadata, "access_token_id": access["id"]}
    own = await read(rest, alice, access["id"])
    assert own["metadata"] == {**metadata, "refresh_token_id": detail["id"]}


@pytest.mark.requirement("R-263")
@pytest.mark.parametrize("gone", [let_expire, sweep], ids=["expired", "swept"])
@pytest.mark.parametrize(
    "metadata", [{"own": 1}, {"own": 1, "server_name": "weather"}], ids=["own", "of a server"]
)
async def test_an_access_token_comes_back_under_its_id_while_its_refresh_token_lives(
    rest: Rest, alice: UserContext, gone: Any, metadata: dict[str, Any]
) -> None:
    access, refresh_id = await pair(rest, alice, metadata=metadata)
    before = await read(rest, alice, access)
    await gone(rest, access)

    answer = await refresh(rest, alice, access)

    assert answer.status_code == 200, answer.text
    assert answer.json()["id"] == access
    after = await read(rest, alice, access)
    changing = ("token", "created_at", "expires_at")
    assert after == {**before, **{name: after[name] for name in changing}}
    assert (await read(rest, alice, refresh_id))["metadata"]["access_token_id"] == access


@pytest.mark.requirement("R-263")
async def test_a_pair_of_jarvis_is_linked_by_its_identifiers(
    rest: Rest, alice: UserContext
) -> None:
    access = await write_as_jarvis(rest, alice, "mcp_oauth", "mcp:weather")
    theirs = await write_as_jarvis(rest, alice, "mcp_oauth_refresh", "mcp:weather:refresh")
    await let_expire(rest, access)

    answer = await refresh(rest, alice, access, new_refresh_token="newer")

    assert answer.status_code == 200
    assert (await read(rest, alice, theirs))["token"] == "newer"
    assert len(await rows(rest)) == 2


@pytest.mark.requirement("R-263")
async def test_with_both_tokens_gone_there_is_nothing_to_refresh(
    rest: Rest, alice: UserContext
) -> None:
    access, refresh_id = await pair(rest, alice)
    await sweep(rest, access)
    await let_expire(rest, refresh_id)

    answer = await refresh(rest, alice, access)

    assert (answer.status_code, answer.json()) == (404, GONE)


async def test_an_access_token_that_was_stored_anew_meanwhile_is_left_alone(
    rest: Rest, alice: UserContext
) -> None:
    access, _ = await pair(rest, alice)
    await sweep(rest, access)
    newer = await store(rest, alice)

    assert (await refresh(rest, alice, access)).status_code == 404
    assert (await read(rest, alice, newer["id"]))["token"] == SENTINEL


@pytest.mark.requirement("R-263")
@pytest.mark.parametrize("kind", ["oauth_refresh", "api_key"])
async def test_only_access_tokens_are_refreshed(rest: Rest, alice: UserContext, kind: str) -> None:
    stored = await store(rest, alice, type=kind)

    assert (await refresh(rest, alice, stored["id"])).status_code == 422


@pytest.mark.parametrize(
    "changed",
    [
        {"new_expires_at": "2020-01-01T00:00:00Z"},
        {"new_expires_at": None},
        {"new_refresh_expires_at": "2098-01-01T00:00:00Z"},
        {"new_refresh_token": "a", "new_refresh_expires_at": "2020-01-01T00:00:00Z"},
        {"new_access_token": ""},
        {"metadata": {}},
    ],
    ids=str,
)
async def test_a_refresh_that_makes_no_sense_is_refused(
    rest: Rest, alice: UserContext, changed: dict[str, Any]
) -> None:
    stored = await store(rest, alice)

    assert (await refresh(rest, alice, stored["id"], **changed)).status_code == 422


@pytest.mark.requirement("R-261")
async def test_reading_can_be_turned_off(
    rest: Rest, alice: UserContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = await store(rest, alice)
    monkeypatch.setattr(rest.parts.tokens, "_reads_enabled", False)

    answer = await rest.ask(alice, "GET", f"/tokens/{stored['id']}")

    assert (answer.status_code, answer.json()["error"]) == (403, "forbidden")
    assert (await rest.ask(alice, "GET", "/tokens")).status_code == 200


async def test_a_token_of_another_key_is_no_server_error(rest: Rest, alice: UserContext) -> None:
    stored = await store(rest, alice)
    await rest.parts.database.collection("tokens").update_one({}, {"$set": {"token": "ab:cd"}})

    answer = await rest.ask(alice, "GET", f"/tokens/{stored['id']}")

    assert (answer.status_code, answer.json()["error"]) == (409, "conflict")


@pytest.mark.requirement("R-260")
@pytest.mark.requirement("R-261")
async def test_everything_is_recorded_once_and_no_value_anywhere(
    rest: Rest, alice: UserContext
) -> None:
    with capture_logs() as logs:
        access, refresh_id = await pair(rest, alice, metadata={"own": SENTINEL})
        await refresh(rest, alice, access, new_access_token=SENTINEL, new_refresh_token="gho_x")
        await read(rest, alice, access)
        await store(rest, alice)
        await rest.ask(alice, "DELETE", f"/tokens/{access}")

    found = await records(rest)
    assert [(row["action"], str(row["entity_id"])) for row in found] == [
        ("create", refresh_id),
        ("create", access),
        ("refresh", access),
        ("read", access),
        ("update", access),
        ("delete", access),
    ]
    assert found[1]["changes"]["after"]["token"] == "***"
    assert found[2]["changes"]["secrets"] == ["refresh_token", "token"]
    assert "s3ntinel" not in json_util.dumps(found)
    assert "s3ntinel" not in str(logs)


@pytest.mark.requirement("R-261")
async def test_what_cannot_be_recorded_is_not_done(
    rest: Rest, alice: UserContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    access, _ = await pair(rest, alice)
    before = json_util.dumps(await rows(rest))

    async def refuse(_self: object, _documents: object, _tx: Transaction | None = None) -> None:
        raise DatabaseUnavailable

    monkeypatch.setattr(AuditRepository, "insert", refuse)
    monkeypatch.setattr(AuditRepository, "insert_alone", refuse)
    answers = [
        await rest.ask(alice, "GET", f"/tokens/{access}"),
        await rest.ask(alice, "POST", "/tokens", json=body(rest, token="x")),
        await refresh(rest, alice, access, new_refresh_token="x"),
        await rest.ask(alice, "DELETE", f"/tokens/{access}"),
    ]

    assert [answer.status_code for answer in answers] == [503] * 4
    assert all(SENTINEL not in answer.text for answer in answers)
    assert json_util.dumps(await rows(rest)) == before


@pytest.mark.requirement("R-270")
async def test_stored_tokens_and_operations_are_measured(
    rest: Rest, alice: UserContext, bob: UserContext
) -> None:
    access, _ = await pair(rest, alice)
    await refresh(rest, alice, access)
    await store(rest, bob, type="api_key")
    gone = await store(rest, bob)
    await let_expire(rest, gone["id"])
    await refresh(rest, alice, gone["id"])
    rest.parts.token_gauges._counted_at = float("-inf")

    lines = (await rest.client.get("/metrics")).text.splitlines()

    assert 'tokens_active{type="oauth_access"} 1.0' in lines
    assert 'tokens_active{type="api_key"} 1.0' in lines
    assert "tokens_active_users 2.0" in lines
    assert "tokens_expired 1.0" in lines
    assert any('operation="refresh",outcome="success"' in line for line in lines)
    assert any('operation="refresh",outcome="failure"' in line for line in lines)
    assert any('operation="store",outcome="success"' in line for line in lines)


@pytest.mark.requirement("R-260")
async def test_nothing_is_read_or_written_without_its_scope(
    rest: Rest, alice: UserContext
) -> None:
    stored = await store(rest, alice)
    narrow = UserContext(alice.user_id, "alice", alice.role, frozenset())
    calls = [
        ("GET", "/tokens"),
        ("GET", f"/tokens/{stored['id']}"),
        ("POST", "/tokens"),
        ("PUT", f"/tokens/{stored['id']}/refresh"),
        ("DELETE", f"/tokens/{stored['id']}"),
    ]

    answers = [await rest.ask(narrow, method, path) for method, path in calls]

    assert [answer.json()["error"] for answer in answers] == ["insufficient_scope"] * 5
    assert [answer.json()["scope"] for answer in answers] == ["read:tokens"] * 2 + [
        "write:tokens"
    ] * 3
