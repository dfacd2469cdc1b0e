"""What governs calls refuses bad input in the one envelope, on every route, and never fails."""

import base64
import json

import pytest
from bson import ObjectId

from registry.auth.identity import UserContext
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

UNKNOWN = "f" * 24
SIMULATION = '{"limit":{"name":"l","in_flight":1},"since":%s}'
HUGE = "1" + "0" * 400
DEEP = "[" * 5_000 + "]" * 5_000
LIMIT = '{"name":"l","in_flight":%s}'
BUDGET = '{"name":"b","amount":%s,"subjects":{"everyone":true}}'
TOOLSET = '{"name":"t","entries":[{"server":"s","tool":"x","arguments":%s}]}'
TIER = '{"name":"t","entries":[{"metadata":{"cost_tier":%s}}]}'
POLICY = '{"name":%s,"effect":"deny","target":{"tools":["x"]},"subjects":{"everyone":true}}'
QUARANTINE = '{"kind":"client","subject":"c","reason":"r","expires_at":%s}'
NUMBERS = ("NaN", "-Infinity", "1e400", HUGE, "-1", "1.0000001", "true", '"1"', "null", DEEP)
TEXTS = ('"\\ud800"', '"a\\u0000b"', '" "', f'"{"x" * 100_000}"', "[]", '{"$ne":1}', DEEP)
TIMES = ('"2020-01-01T00:00:00Z"', '"9999-12-31T23:59:59-23:00"', "NaN", HUGE, '"soon"')
WHOLE = ("", " ", "null", "[]", "{", '{"name":1,"name":2}', '{"unknown":1}', "\ufeff{}")


def filled(body: str, text: str) -> str:
    return body.replace("%s", text)


BODIES = [
    *(("/limits", filled(LIMIT, one)) for one in NUMBERS),
    *(("/budgets", filled(BUDGET, one)) for one in NUMBERS),
    *(("/toolsets", filled(TOOLSET, one)) for one in (*NUMBERS, *TEXTS[:2]) if one != "null"),
    *(("/toolsets", filled(TIER, one)) for one in ('""', f'"{"x" * 100_000}"', *TEXTS[-3:])),
    *(("/access/policies", filled(POLICY, one)) for one in TEXTS),
    *(("/access/quarantine", filled(QUARANTINE, one)) for one in TIMES),
    *(("/access/simulate", filled(SIMULATION, one)) for one in TIMES[1:]),
    *(("/access/explain", filled('{"tool":%s}', one)) for one in TEXTS),
    *((f"/approvals/{UNKNOWN}/approve", filled('{"comment":%s}', one)) for one in TEXTS[:2]),
    *(
        (path, whole)
        for path in ("/limits", "/budgets", "/toolsets", "/access/policies", "/access/quarantine")
        for whole in WHOLE
    ),
]


def cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


QUERIES = [
    *(
        f"/{path}?cursor={one}"
        for path in ("usage", "approvals")
        for one in (
            "x",
            "%00",
            "%ED%A0%80",
            cursor(f"1.{'a' * 22}  "),
            cursor(f"nan.{UNKNOWN}"),
            cursor(f"{'9' * 90}.{UNKNOWN}"),
            cursor(f"1.{UNKNOWN}0000000000"),
        )
    ),
    *(
        f"/{path}?{one}"
        for path in ("limits", "budgets", "toolsets", "access/policies")
        for one in ("page=0", f"page={HUGE}", "per_page=NaN", "per_page=-1", "unknown=1", "page=")
    ),
    "/usage?group_by=password",
    "/usage?since=9999-12-31T23:59:59-23:00",
    "/usage?since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z",
    "/usage?user_id=$ne",
    "/usage?limit=1&limit=2",
    "/usage?format=xml",
    "/approvals?state=done",
    "/approvals?tool=",
    "/approvals?limit=0",
    "/access/quarantine?active=maybe",
]


async def test_bad_bodies_and_parameters_are_refused_in_the_envelope(
    rest: Rest, root: UserContext
) -> None:
    headers = {"Content-Type": "application/json"}
    odd = []
    for path, body in BODIES:
        answer = await rest.ask(root, "POST", path, content=body.encode(), headers=headers)
        if (answer.status_code, answer.json().get("error")) != (422, "validation_error"):
            odd.append((path, body[:100], answer.status_code, answer.text[:200]))
    for path in QUERIES:
        answer = await rest.ask(root, "GET", path)
        if (answer.status_code, answer.json().get("error")) != (422, "validation_error"):
            odd.append((path, "", answer.status_code, answer.text[:200]))

    assert odd == []


async def test_odd_ids_and_etags_change_nothing(
    rest: Rest, root: UserContext, alice: UserContext
) -> None:
    users = rest.parts.database.collection("users")
    await users.insert_one({"_id": ObjectId(root.user_id), "role": "ADMIN", "name": "root"})
    bodies = {
        "/limits": json.loads(filled(LIMIT, "1")),
        "/budgets": json.loads(filled(BUDGET, "1")),
        "/access/policies": json.loads(filled(POLICY, '"p"')),
        "/toolsets": {"name": "t", "entries": []},
    }
    odd = []
    for path, body in bodies.items():
        made = (await rest.ask(root, "POST", path, json=body)).json()
        own = f"{path}/{made['id']}"
        asked = [(root, own, etag) for etag in ('"0"', 'W/"x"', "", '"', "1\xe9", "x" * 5_000)]
        asked += [(root, f"{path}/{one}", "*") for one in (UNKNOWN, "x", "%00", "%ED%A0%80")]
        asked += [(alice, own, "*")]
        for user, at, etag in asked:
            token, sent = f"Bearer {rest.token(user)}".encode(), etag.encode("latin-1")
            headers = {b"Authorization": token, b"If-Match": sent}
            for method, content in (("PATCH", {"name": "other"}), ("DELETE", None)):
                answer = await rest.client.request(
                    method, f"/api/v1{at}", json=content, headers=headers
                )
                if answer.status_code not in {404, 409, 422} or "error" not in answer.json():
                    odd.append((method, at, etag, answer.status_code, answer.text[:200]))
        now = (await rest.ask(root, "GET", own)).json()
        assert (now["name"], now["etag"]) == (made["name"], made["etag"])

    assert odd == []
