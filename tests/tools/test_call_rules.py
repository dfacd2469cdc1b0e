"""Call rules: what a tool's metadata and its server demand of each call."""

from typing import Any

import pytest

from registry.tools.call_rules import (
    MEMBERS,
    NO_CALL_RULES,
    ArgumentValidation,
    CallRules,
    OutputValidation,
    call_rules,
    misspelt,
    problem_of,
    warnings_of,
)
from registry.tools.metadata import FLAGS

DESTRUCTIVE = ("destructive:true",)


def rules(
    said: dict[str, Any] | None = None,
    facets: tuple[str, ...] = (),
    defaults: dict[str, Any] | None = None,
    *,
    is_shared: bool = True,
    enforces_approvals: bool = True,
) -> CallRules:
    return call_rules(
        said or {},
        facets,
        defaults or {},
        is_shared=is_shared,
        enforces_approvals=enforces_approvals,
    )


def test_a_tool_nobody_said_anything_of_has_the_usual_rules() -> None:
    assert rules() == NO_CALL_RULES
    assert NO_CALL_RULES.validate is ArgumentValidation.ON


def test_a_tool_has_its_own_choice_before_its_servers() -> None:
    server = {"validate": "off", "validate_output": "enforce", "confirm": "always"}
    assert rules(defaults=server) == CallRules(
        ArgumentValidation.OFF, OutputValidation.ENFORCE, is_confirmed=True
    )
    own = {"validate": "report", "validate_output": "off", "confirm": "never"}
    assert rules(own, defaults=server) == CallRules(ArgumentValidation.REPORT)


def test_an_unreadable_choice_counts_as_the_strictest() -> None:
    odd = {"validate": ["off"], "validate_output": 3, "confirm": {}}
    assert rules(odd) == CallRules(validate_output=OutputValidation.ENFORCE, is_confirmed=True)


@pytest.mark.parametrize(
    ("said", "facets", "is_shared", "is_confirmed"),
    [
        ({"destructive": True}, DESTRUCTIVE, True, True),
        ({"destructive": True}, DESTRUCTIVE, False, False),
        ({}, DESTRUCTIVE, True, False),
        ({"confirm": "when_destructive"}, DESTRUCTIVE, False, True),
        ({"confirm": "when_destructive"}, (), True, False),
        ({"destructive": True, "confirm": "never"}, DESTRUCTIVE, True, False),
    ],
)
def test_destruction_is_confirmed_where_a_person_called_it_so_or_chose_it(
    said: dict[str, Any],
    facets: tuple[str, ...],
    is_shared: bool,  # noqa: FBT001 - a row of the table
    is_confirmed: bool,  # noqa: FBT001
) -> None:
    assert rules(said, facets, is_shared=is_shared).is_confirmed is is_confirmed


@pytest.mark.parametrize(
    ("said", "needed"),
    [({}, 1), ({"approvals_required": 2}, 2), ({"approvals_required": "one"}, 2)],
)
def test_a_flagged_tool_needs_one_approval_or_two(said: dict[str, Any], needed: int) -> None:
    flagged = ("human_approval_required:true",)
    assert rules(said, flagged).approvals == needed
    assert rules(said, flagged, enforces_approvals=False).approvals == 0
    assert rules(said).approvals == 0


def test_prices_are_exact_millionths_and_odd_ones_are_none() -> None:
    assert rules({"price_per_call": 0.1, "price_per_kib": 2}) == CallRules(
        price_per_call=100_000, price_per_kib=2_000_000
    )
    odd = {"price_per_call": -1, "price_per_kib": True, "billing_tags": "a"}
    assert rules(odd) == NO_CALL_RULES
    for price in (float("nan"), float("inf"), 10**400):
        assert rules({"price_per_call": price}) == NO_CALL_RULES


def test_a_projection_is_kept_even_if_it_cannot_be_used() -> None:
    # Calls then fail, where an answer would else be shown whole.
    assert rules({"projection": "items[].id"}).projection == "items[].id"
    assert rules({"projection": 5}).projection == "5"


def test_billing_tags_are_a_set_of_texts() -> None:
    assert rules({"billing_tags": ["b", "a", "b", 3, ""]}).billing_tags == ("a", "b")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("validate", "report"),
        ("validate_output", "enforce"),
        ("confirm", "when_destructive"),
        ("confirm", None),
        ("approvals_required", 2),
        ("billing_tags", []),
        ("billing_tags", ["crm", "team a"]),
        ("price_per_call", 0.25),
        ("price_per_call", 999_999.999_999),
        ("price_per_kib", 0.000_001),
        ("price_per_kib", 0),
        ("projection", "items[].{id: id, name: name}"),
        ("anything_else", {"of": "theirs"}),
    ],
)
def test_what_people_may_state_is_no_problem(name: str, value: object) -> None:
    assert problem_of(name, value) is None


A_PRICE = "must be a number from 0 to 1000000 with at most six decimals, or null"


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("validate", "maybe", "must be one of on, report, off, or null"),
        ("validate_output", True, "must be one of enforce, report, off, or null"),
        ("confirm", ["always"], "must be one of always, when_destructive, never, or null"),
        ("approvals_required", 3, "must be a whole number from 1 to 2, or null"),
        ("approvals_required", True, "must be a whole number from 1 to 2, or null"),
        ("price_per_call", -1, A_PRICE),
        ("price_per_kib", "1", A_PRICE),
        ("price_per_kib", float("nan"), A_PRICE),
        ("price_per_kib", 1e-7, A_PRICE),
        ("price_per_call", 0.1234567, A_PRICE),
        ("projection", 5, "must be a JMESPath expression, or null"),
        ("projection", "[@,@][]|" * 5 + "@", "repeats its input too often"),
    ],
)
def test_a_member_of_another_form_is_a_problem(name: str, value: object, problem: str) -> None:
    assert problem_of(name, value) == problem


@pytest.mark.parametrize(
    "value",
    ["crm", ["a"] * 2, [""], [" a"], ["x" * 65], [1], ["a\n"], [str(n) for n in range(21)]],
)
def test_billing_tags_are_different_short_lines(value: object) -> None:
    assert "different tags" in (problem_of("billing_tags", value) or "")


@pytest.mark.parametrize(
    ("said", "facets", "defaults", "is_shared", "warned"),
    [
        ({}, DESTRUCTIVE, {}, True, ["Only the server or the tool's name claims"]),
        ({}, DESTRUCTIVE, {"confirm": "never"}, True, []),
        ({"destructive": True}, DESTRUCTIVE, {}, True, []),
        ({"destructive": True}, DESTRUCTIVE, {}, False, ["its author's alone"]),
        ({"confirm": "never"}, DESTRUCTIVE, {}, True, []),
        ({"confirm": "never", "destructive": True}, DESTRUCTIVE, {}, True, ["confirm is never"]),
        ({"confirm": "when_destructive"}, (), {}, True, ["which nobody says"]),
        ({"approvals_required": 2}, (), {}, True, ["has no effect"]),
        ({}, (), {}, True, []),
    ],
)
def test_a_tool_that_looks_more_protected_than_it_is_has_warnings(
    said: dict[str, Any],
    facets: tuple[str, ...],
    defaults: dict[str, Any],
    is_shared: bool,  # noqa: FBT001 - a column of the table
    warned: list[str],
) -> None:
    counts = rules(said, facets, defaults, is_shared=is_shared)

    warnings = warnings_of(counts, said, facets, defaults)

    assert [part in warning for part, warning in zip(warned, warnings, strict=True)] == [
        True for _ in warned
    ]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("destructve", "destructive"),
        ("Destructive", "destructive"),
        ("destructiveHint", "destructive"),
        ("read-only", "read_only"),
        ("readOnlyHint", "read_only"),
        ("humanApprovalRequired", "human_approval_required"),
        ("human_aproval_required", "human_approval_required"),
        ("approval_required", "approvals_required"),
        ("costTier", "cost_tier"),
        ("price_per_kb", "price_per_kib"),
        ("billing_tag", "billing_tags"),
        ("conform", "confirm"),
    ],
)
def test_a_member_that_looks_misspelt_is_warned_of(name: str, meant: str) -> None:
    assert misspelt([name]) == [f"{name} has no effect. Did you mean {meant}?"]


def test_members_that_have_an_effect_or_another_name_are_not_warned_of() -> None:
    others = ["team", "owner", "notes", "x" * 500, "x-internal", "runbook", "priority", "tagged"]

    assert misspelt([*FLAGS, *MEMBERS, *others]) == []
