"""Policies in the database: what it refuses, and what becomes of those that cannot be read."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st
from pymongo.errors import WriteError

from packages.database.client import Database
from packages.models.states import Effect, SourceType
from registry.access.policies.presenter import present_policy
from registry.access.policies.repository import PolicyRepository, policy_of, record_of
from registry.access.policies.values import EVERYONE, Policy, PolicyTarget, Subjects

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OWNER = ObjectId("1" * 24)
ID = ObjectId("2" * 24)


def row(**changes: Any) -> dict[str, Any]:
    """Return a stored policy; a change to None leaves the member out."""
    person = {"user_id": "c" * 24, "username": "root"}
    whole = {
        "_id": ID,
        "name": "a policy",
        "effect": "allow",
        "is_enabled": True,
        "source_type": "mcp",
        "owner_id": OWNER,
        "tools": ["echo"],
        "metadata": {"destructive": True},
        "users": [ObjectId("a" * 24)],
        "groups": [],
        "roles": [],
        "scopes": ["ops"],
        "everyone": False,
        "revision": 1,
        "created_at": NOW,
        "created_by": person,
        "updated_at": NOW,
        "updated_by": person,
    }
    return {name: value for name, value in (whole | changes).items() if value is not None}


@pytest.mark.wire
@pytest.mark.requirement("R-077")
@pytest.mark.parametrize(
    "changes",
    [
        {"name": None},
        {"name": ""},
        {"name": 7},
        {"effect": None},
        {"effect": "forbid"},
        {"is_enabled": "yes"},
        {"source_type": "soap"},
        {"owner_id": "1" * 24},
        {"tools": "echo"},
        {"tools": [""]},
        {"metadata": []},
        {"users": ["a" * 24]},
        {"groups": ["a" * 24]},
        {"roles": ["root"]},
        {"scopes": [7]},
        {"users": [], "scopes": []},
        {"users": None, "scopes": None},
        {"revision": 0},
        {"updated_at": "now"},
    ],
    ids=str,
)
async def test_the_database_refuses_a_raw_write_of_what_is_no_policy(
    database: Database, changes: dict[str, Any]
) -> None:
    policies = database.collection("access_policies")

    with pytest.raises(WriteError):
        await policies.insert_one(row(**changes))

    assert await policies.count_documents({}) == 0


@pytest.mark.wire
@pytest.mark.parametrize(
    "subjects",
    [
        {},
        {"users": [], "scopes": ["ops"]},
        {"users": None, "scopes": None, "everyone": True},
        {"users": None, "scopes": None, "roles": ["user"]},
    ],
    ids=str,
)
async def test_the_database_takes_what_is_a_policy(
    database: Database, subjects: dict[str, Any]
) -> None:
    await database.collection("access_policies").insert_one(row(**subjects))

    found = await PolicyRepository(database).every()

    assert [policy.problem for policy in found.values()] == [None]


def test_a_stored_policy_is_read_as_it_was_written() -> None:
    assert policy_of(row()) == Policy(
        str(ID),
        "a policy",
        Effect.ALLOW,
        PolicyTarget(SourceType.MCP, str(OWNER), ("echo",), {"destructive": True}),
        Subjects(users=frozenset({"a" * 24}), scopes=frozenset({"ops"})),
    )


WHOLE = PolicyTarget(SourceType.MCP, str(OWNER), ("echo",), {"destructive": True})
UNMARKED = replace(WHOLE, metadata={})


@pytest.mark.parametrize(
    ("changes", "target", "problem"),
    [
        ({"effect": "perhaps"}, WHOLE, "effect"),
        ({"effect": None}, WHOLE, "effect"),
        ({"is_enabled": 1}, WHOLE, "is_enabled"),
        ({"users": "all"}, WHOLE, "users"),
        ({"users": ["a" * 24]}, WHOLE, "users"),
        ({"roles": ["root"]}, WHOLE, "roles"),
        ({"scopes": [7]}, WHOLE, "scopes"),
        ({"everyone": "no"}, WHOLE, "everyone"),
        ({"users": [], "scopes": []}, WHOLE, "subjects"),
        ({"source_type": "soap"}, replace(WHOLE, source_type=None), "source_type"),
        ({"owner_id": "x"}, replace(WHOLE, owner_id=None), "owner_id"),
        ({"tools": 7}, replace(WHOLE, tools=()), "tools"),
        ({"metadata": {"x": 1}}, UNMARKED, "metadata"),
        ({"metadata": {"cost_tier": True}}, UNMARKED, "metadata"),
    ],
    ids=str,
)
def test_what_cannot_be_read_refuses_all_that_it_may_be_about(
    changes: dict[str, Any], target: PolicyTarget, problem: str
) -> None:
    policy = policy_of(row(**changes))

    assert policy == Policy(
        str(ID), "a policy", Effect.DENY, target, EVERYONE, problem=f"unreadable: {problem}"
    )


def test_what_cannot_be_read_but_says_that_it_is_off_is_off() -> None:
    policy = policy_of(row(effect="perhaps", is_enabled=False))

    assert policy.is_enabled is False


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(["allow", "deny", "mcp", "openapi", "admin", "", "*"]),
    st.binary(max_size=3),
    st.just(OWNER),
    st.just(NOW),
    st.lists(st.one_of(st.text(max_size=3), st.just(OWNER), st.none(), st.just({})), max_size=2),
    st.dictionaries(st.sampled_from(["destructive", "cost_tier", "x"]), st.booleans(), max_size=2),
)


@given(st.dictionaries(st.sampled_from(sorted(set(row()) - {"_id"})), junk))
def test_whatever_is_stored_is_read_or_refuses_and_never_fails(changes: dict[str, Any]) -> None:
    record = record_of(row() | changes)

    policy = record.policy
    is_refusing = (policy.effect, policy.subjects) == (Effect.DENY, EVERYONE)
    assert policy.problem is None or is_refusing
    assert policy.subjects != Subjects()
    assert present_policy(record)["id"] == str(ID)


def test_an_empty_document_refuses_everything() -> None:
    policy = policy_of({"_id": "odd"})

    assert (policy.effect, policy.is_enabled) == (Effect.DENY, True)
    assert (policy.target.owner_id, policy.target.tools) == (None, ())
    assert policy.subjects == EVERYONE


@pytest.mark.wire
async def test_policies_are_found_by_ids_of_any_kind(database: Database) -> None:
    repository = PolicyRepository(database)
    policies = database.db.get_collection("access_policies")
    await policies.insert_one(row())
    await policies.insert_one({"_id": "f" * 24}, bypass_document_validation=True)

    found = await repository.some([str(ID), "f" * 24, "0" * 24, "nonsense"])

    assert sorted(found) == [str(ID), "f" * 24]
    assert found["f" * 24].problem is not None


@pytest.mark.wire
async def test_policies_about_a_server_are_its_own_and_those_about_all(database: Database) -> None:
    policies = database.db.get_collection("access_policies")
    await policies.insert_many(
        [
            row(_id=ObjectId("3" * 24), name="own"),
            row(_id=ObjectId("4" * 24), name="all", owner_id=None),
            row(_id=ObjectId("5" * 24), name="other", owner_id=ObjectId("9" * 24)),
        ]
    )
    await policies.insert_one(
        row(_id=ObjectId("6" * 24), name="odd", owner_id="x"), bypass_document_validation=True
    )

    found = await PolicyRepository(database).about(str(OWNER))

    assert sorted(policy.name for policy in found) == ["all", "odd", "own"]
