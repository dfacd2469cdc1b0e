"""Paging, errors, JSON and the clock."""

import math
from datetime import UTC, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.core.clock import SystemClock
from registry.core.errors import ErrorKind, RegistryError, ValidationFailedError
from registry.core.json import canonical_json
from registry.core.paging import Page, PageRequest


@pytest.mark.requirement("R-117")
@pytest.mark.parametrize(
    ("total", "per_page", "pages"), [(0, 20, 0), (1, 20, 1), (20, 20, 1), (21, 20, 2), (5, 1, 5)]
)
def test_pages_are_counted_up(total: int, per_page: int, pages: int) -> None:
    assert Page((), total, PageRequest(1, per_page)).total_pages == pages


@given(page=st.integers(1, 10**6), per_page=st.integers(1, 100))
def test_pages_follow_each_other_without_a_gap(page: int, per_page: int) -> None:
    this, following = PageRequest(page, per_page), PageRequest(page + 1, per_page)

    assert this.offset + this.per_page == following.offset


@pytest.mark.requirement("R-138")
def test_a_validation_error_names_the_field() -> None:
    error = ValidationFailedError("url", "is not an address")

    assert (error.kind, error.message) == (ErrorKind.INVALID, "url: is not an address")
    assert error.facts == {"details": [{"field": "url", "message": "is not an address"}]}


def test_facts_of_an_error_are_its_own() -> None:
    facts: dict[str, object] = {"a": 1}

    error = RegistryError("no", facts)
    facts["b"] = 2

    assert error.facts == {"a": 1}


def test_canonical_json_knows_no_order_and_no_space() -> None:
    assert canonical_json({"b": [1, None], "a": "é\n"}) == '{"a":"é\\n","b":[1,null]}'


@pytest.mark.requirement("E-16")
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_canonical_json_refuses_what_json_cannot_say(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": [number]})


def test_the_time_is_utc_in_whole_milliseconds() -> None:
    now = SystemClock().now()

    assert now.tzinfo is UTC
    assert now.microsecond % 1000 == 0


def test_the_monotonic_clock_never_goes_back() -> None:
    clock = SystemClock()

    assert clock.monotonic() <= clock.monotonic()


async def test_sleeping_takes_time() -> None:
    clock = SystemClock()
    before = clock.monotonic()

    await clock.sleep(0.01)

    assert timedelta(seconds=clock.monotonic() - before) >= timedelta(milliseconds=9)
