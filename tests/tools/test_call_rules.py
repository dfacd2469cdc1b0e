"""Call rules: what a tool's metadata and its server demand of each call."""

from typing import Any

import pytest

from registry.tools.call_rules import (
    NO_CALL_RULES,
    ArgumentValidation,
    CallRules,
    OutputValidation,
    call_rules,
)

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


def test_billing_tags_are_a_set_of_texts() -> None:
    assert rules({"billing_tags": ["b", "a", "b", 3, ""]}).billing_tags == ("a", "b")
