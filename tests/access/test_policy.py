"""Who may see and change what."""

from dataclasses import replace

import pytest

from registry.access.policy import (
    AccessRule,
    Grant,
    Grants,
    Permission,
    PrincipalType,
    ServerFacts,
    ServerScope,
    Step,
    decide,
    decide_use,
    evaluate,
)
from registry.auth.identity import ALL_SCOPES, OPERATOR, Role, UserContext, tenant_of

ALICE = UserContext("a" * 24, "alice", Role.USER, ALL_SCOPES, frozenset({"9" * 24}))
BOB = UserContext("b" * 24, "bob", Role.USER, ALL_SCOPES)
ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)
APP, SHARED, PRIVATE = ServerScope
VIEW, EDIT = Permission.VIEW, Permission.EDIT


def server(scope: ServerScope | None, *grants: Grant) -> ServerFacts:
    return ServerFacts(ALICE.user_id, scope, Grants.of(grants, None))


def to_alice(bits: Permission = VIEW) -> Grant:
    return Grant("user", ALICE.user_id, bits)


def to_bob(bits: Permission = VIEW) -> Grant:
    return Grant("user", BOB.user_id, bits)


@pytest.mark.requirement("R-334")
@pytest.mark.requirement("R-242")
@pytest.mark.parametrize(
    ("user", "needed", "facts", "allowed"),
    [
        (ALICE, VIEW, server(PRIVATE), True),
        (ALICE, EDIT, server(PRIVATE), True),
        (BOB, VIEW, server(PRIVATE), False),
        (BOB, VIEW, server(PRIVATE, to_bob()), False),
        (ROOT, EDIT, server(PRIVATE), True),
        (BOB, VIEW, server(APP), True),
        (BOB, EDIT, server(APP), False),
        (ALICE, EDIT, server(APP), False),
        (BOB, VIEW, server(SHARED), False),
        (BOB, VIEW, server(SHARED, to_bob()), True),
        (BOB, VIEW, server(SHARED, to_bob(EDIT)), False),
        (BOB, VIEW, server(SHARED, Grant("public", None, VIEW)), False),
        (BOB, VIEW, server(None, Grant("public", None, VIEW)), True),
        (BOB, EDIT, server(None, Grant("public", None, EDIT)), False),
        (BOB, EDIT, server(SHARED, to_bob(EDIT)), True),
        (BOB, EDIT, server(APP, to_bob(EDIT)), True),
        (BOB, VIEW, server(SHARED, Grant("group", "9" * 24, VIEW)), False),
        (BOB, VIEW, server(SHARED, Grant("role", "USER", VIEW)), True),
        (BOB, VIEW, server(SHARED, Grant("unheard-of", BOB.user_id, VIEW)), False),
        (BOB, VIEW, server(None), False),
        (BOB, VIEW, server(None, to_bob()), True),
        (ALICE, EDIT, server(None), True),
        (BOB, EDIT, server(None, to_bob()), False),
    ],
)
def test_the_decision_follows_scope_author_and_grants(
    user: UserContext,
    needed: Permission,
    facts: ServerFacts,
    allowed: bool,  # noqa: FBT001 - a column of the table above
) -> None:
    assert decide(user, needed, facts).allowed is allowed


def test_administrators_can_be_kept_out_of_private_servers() -> None:
    assert not decide(ROOT, VIEW, server(PRIVATE), admin_sees_private=False).allowed
    assert decide(ROOT, VIEW, server(SHARED), admin_sees_private=False).allowed


def test_the_bits_of_all_entries_about_a_caller_add_up_and_the_trace_tells_which() -> None:
    facts = server(
        SHARED, to_bob(VIEW), to_bob(EDIT), Grant("role", "USER", Permission.SHARE), to_alice(VIEW)
    )

    verdict = evaluate(BOB, facts)

    assert verdict.permissions == VIEW | EDIT | Permission.SHARE
    assert verdict.trace == (
        Step(AccessRule.USER, VIEW | EDIT),
        Step(AccessRule.ROLE, Permission.SHARE),
    )


def test_a_refusal_names_its_rule() -> None:
    assert decide(BOB, VIEW, server(PRIVATE)).rule is AccessRule.PRIVATE
    assert decide(BOB, EDIT, server(APP)).rule is AccessRule.NO_GRANT
    assert decide(BOB, VIEW, server(APP)).rule is AccessRule.EVERYONE


def test_entries_of_groups_count_for_their_members() -> None:
    facts = server(SHARED, Grant("group", "9" * 24, VIEW), Grant("group", "8" * 24, EDIT))
    anna = replace(BOB, groups=frozenset({"9" * 24, "8" * 24, "7" * 24}))

    assert evaluate(anna, facts).permissions == VIEW | EDIT
    assert not evaluate(BOB, facts).bits


TENANTS = [None, "acme", "other"]


@pytest.mark.parametrize("own", TENANTS)
@pytest.mark.parametrize("theirs", TENANTS)
@pytest.mark.parametrize("scope", [*ServerScope, None])
@pytest.mark.parametrize("user", [ALICE, ROOT], ids=["author", "administrator"])
def test_nobody_sees_or_uses_what_is_of_another_tenant(
    user: UserContext, scope: ServerScope | None, own: str | None, theirs: str | None
) -> None:
    caller = replace(user, tenant_id=own)
    public = Grants.of([Grant(PrincipalType.PUBLIC, None, VIEW)], theirs)
    facts = ServerFacts(ALICE.user_id, scope, public, tenant_id=theirs)

    seen = decide(caller, VIEW, facts)
    used = decide_use(caller, facts, admin_uses_private=True)

    if own != theirs:
        assert (used.allowed, used.rule) == (False, AccessRule.TENANT)
        # Whom the operator made, without a tenant, sees what is of any, and uses none of it.
        expected = (
            (True, AccessRule.ADMINISTRATOR)
            if caller.sees_all_tenants
            else (False, AccessRule.TENANT)
        )
        assert (seen.allowed, seen.rule) == expected
    else:
        assert (seen, used) == (
            decide(user, VIEW, replace(facts, tenant_id=None)),
            decide_use(user, replace(facts, tenant_id=None), admin_uses_private=True),
        )


def test_an_entry_that_says_another_tenant_counts_for_nobody() -> None:
    grant = Grant(PrincipalType.PUBLIC, None, VIEW)

    given = [
        Grants.of([replace(grant, tenant_id=said)], "acme").public
        for said in (None, "acme", "other")
    ]

    assert given == [1, 1, 0]


def test_the_operator_is_of_all_tenants() -> None:
    facts = ServerFacts(ALICE.user_id, ServerScope.PRIVATE_USER, tenant_id="acme")

    assert decide(OPERATOR, VIEW, facts).allowed


@pytest.mark.parametrize(
    ("stored", "tenant"),
    [(None, None), ("", None), ("acme", "acme"), (7, "\x00int:7"), (True, "\x00bool:True")],
)
def test_no_tenant_and_an_empty_one_are_the_same_and_odd_ones_are_nobody_elses(
    stored: object, tenant: str | None
) -> None:
    assert tenant_of(stored) == tenant
