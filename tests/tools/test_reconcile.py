"""What becomes of tools when an upstream is read again."""

from dataclasses import replace
from typing import Any

import pytest

from packages.models.states import ExposureState, RegistrationState
from registry.core.definitions import Rejection
from registry.core.json import load_text
from registry.tools.differences import difference
from registry.tools.exposure import AutoExpose, ToolOrigin, first_state, reads_only
from registry.tools.reconcile import (
    Changes,
    OnChange,
    Rules,
    ToolInsert,
    ToolRowUpdate,
    changed_names,
    reconcile,
)
from registry.tools.values import StoredTool, ToolDefinition, ToolSnapshot

SELECTED, UNSELECTED, STALE = RegistrationState
ACTIVE, DRAFT, DISABLED = ExposureState.ACTIVE, ExposureState.DRAFT, ExposureState.DISABLED
PRIVATE = Rules(AutoExpose.ALL, ToolOrigin.LATER_ON_PRIVATE, OnChange.ACCEPT)
SHARED = Rules(AutoExpose.ALL, ToolOrigin.LATER_ON_SHARED)
REVIEWED = Rules(AutoExpose.ALL, ToolOrigin.LATER_ON_SHARED, accept=True)


def definition(name: str, text: str = "one") -> ToolDefinition:
    whole = f'{{"name":"{name}","description":"{text}"}}'
    return ToolDefinition(name, None, text, whole, "{}", None, None, discovery_hash=text)


def stored(
    name: str,
    registration: RegistrationState = SELECTED,
    exposure: ExposureState = ACTIVE,
    text: str = "one",
    pending: str | None = None,
) -> dict[str, StoredTool]:
    row = StoredTool(
        name,
        registration,
        exposure,
        text,
        pending,
        pending_version=None if pending is None else 2,
        versions=1 if pending is None else 2,
        definition=definition(name, text).definition,
    )
    return {name: row}


def update(
    rows: dict[str, StoredTool],
    name: str,
    registration: RegistrationState,
    exposure: ExposureState,
    **rest: Any,
) -> ToolRowUpdate:
    """Return an update of a row, with the difference that belongs to its definition."""
    row, newer = rows[name], rest.get("serve") or rest.get("hold")
    if newer is not None and newer.discovery_hash != row.discovery_hash:
        told = difference(load_text(row.definition or ""), load_text(newer.definition))
        rest["difference"] = told
    return ToolRowUpdate(row, registration, exposure, **rest)


@pytest.mark.requirement("R-172")
def test_an_unchanged_upstream_changes_nothing() -> None:
    changes = reconcile(ToolSnapshot((definition("a"),)), stored("a"), SHARED)

    assert changes == Changes((), ())


@pytest.mark.requirement("R-161")
def test_a_tool_that_is_gone_becomes_stale_and_is_not_deleted() -> None:
    rows = stored("a")

    changes = reconcile(ToolSnapshot(()), rows, SHARED)

    assert changes == Changes((), (update(rows, "a", STALE, ACTIVE, keeps_pending=True),))


def test_a_stale_tool_that_stays_away_is_not_written_again() -> None:
    changes = reconcile(ToolSnapshot(()), stored("a", STALE), SHARED)

    assert changes == Changes((), ())


def test_a_new_tool_of_a_shared_server_waits_for_review() -> None:
    changes = reconcile(ToolSnapshot((definition("a"),)), {}, SHARED)

    assert changes.inserts == (ToolInsert(definition("a"), UNSELECTED, DRAFT, 0),)


def test_a_new_tool_of_a_private_server_follows_its_policy() -> None:
    changes = reconcile(ToolSnapshot((definition("a"),)), {}, PRIVATE)

    assert changes.inserts == (ToolInsert(definition("a"), SELECTED, ACTIVE, 0),)


def test_a_changed_definition_of_a_shared_server_is_held() -> None:
    newer = definition("a", "two")

    rows = stored("a")

    changes = reconcile(ToolSnapshot((newer,)), rows, SHARED)

    assert changes.updates == (update(rows, "a", SELECTED, ACTIVE, hold=newer),)


def test_a_definition_that_is_held_already_is_not_written_again() -> None:
    newer = definition("a", "two")

    changes = reconcile(ToolSnapshot((newer,)), stored("a", pending="two"), SHARED)

    assert changes.updates == ()


def test_an_upstream_that_takes_its_change_back_clears_the_held_definition() -> None:
    rows = stored("a", pending="two")

    changes = reconcile(ToolSnapshot((definition("a"),)), rows, SHARED)

    assert changes.updates == (update(rows, "a", SELECTED, ACTIVE),)


def test_a_changed_definition_of_a_private_server_is_served_at_once() -> None:
    newer = definition("a", "two")

    rows = stored("a")

    changes = reconcile(ToolSnapshot((newer,)), rows, PRIVATE)

    assert changes.updates == (update(rows, "a", SELECTED, ACTIVE, serve=newer),)


def test_a_review_serves_held_and_waiting_tools() -> None:
    newer = definition("a", "two")
    rows = stored("a", pending="two") | stored("b", UNSELECTED, DRAFT)

    changes = reconcile(ToolSnapshot((newer, definition("b"))), rows, REVIEWED)

    assert changes.updates == (
        update(rows, "a", SELECTED, ACTIVE, serve=newer),
        update(rows, "b", SELECTED, ACTIVE),
    )


def test_a_tool_that_comes_back_unchanged_is_served_again() -> None:
    rows = stored("a", STALE)

    changes = reconcile(ToolSnapshot((definition("a"),)), rows, SHARED)

    assert changes.updates == (update(rows, "a", SELECTED, ACTIVE),)


def test_a_tool_that_comes_back_changed_on_a_shared_server_is_not_served() -> None:
    newer = definition("a", "two")

    rows = stored("a", STALE)

    changes = reconcile(ToolSnapshot((newer,)), rows, SHARED)

    assert changes.updates == (update(rows, "a", UNSELECTED, DRAFT, serve=newer),)


def test_a_disabled_tool_stays_disabled_whatever_the_upstream_does() -> None:
    newer = definition("a", "two")
    rows = stored("a", SELECTED, ExposureState.DISABLED)

    changes = reconcile(ToolSnapshot((newer,)), rows, PRIVATE)

    assert changes.updates == (update(rows, "a", SELECTED, ExposureState.DISABLED, serve=newer),)


@pytest.mark.parametrize(
    ("policy", "origin", "read_only", "expected"),
    [
        (AutoExpose.ALL, ToolOrigin.AT_REGISTRATION, False, (SELECTED, ACTIVE)),
        (AutoExpose.READ_ONLY, ToolOrigin.AT_REGISTRATION, True, (SELECTED, ACTIVE)),
        (AutoExpose.READ_ONLY, ToolOrigin.AT_REGISTRATION, False, (UNSELECTED, DRAFT)),
        (AutoExpose.NONE, ToolOrigin.AT_REGISTRATION, True, (UNSELECTED, DRAFT)),
        (AutoExpose.ALL, ToolOrigin.LATER_ON_SHARED, True, (UNSELECTED, DRAFT)),
        (AutoExpose.NONE, ToolOrigin.LATER_ON_PRIVATE, True, (UNSELECTED, DRAFT)),
    ],
)
def test_the_first_state_follows_policy_and_origin(
    policy: AutoExpose,
    origin: ToolOrigin,
    read_only: bool,  # noqa: FBT001 - a column of the table above
    expected: tuple[RegistrationState, ExposureState],
) -> None:
    assert first_state(policy, origin, read_only=read_only) == expected


def test_an_upstreams_hint_wins_over_the_name() -> None:
    assert not reads_only("get_rid_of_everything", {"readOnlyHint": False})
    assert reads_only("get_weather", None)
    assert not reads_only("delete_all", None)


def test_a_change_that_no_model_reads_is_served_though_others_are_held() -> None:
    newer = replace(
        definition("a"),
        definition=definition("a").definition.replace("}", ',"icons":[]}'),
        discovery_hash="icons",
    )
    rows = stored("a")

    changes = reconcile(ToolSnapshot((newer,)), rows, SHARED)

    assert changes.updates == (update(rows, "a", SELECTED, ACTIVE, serve=newer),)


def test_a_blocked_change_blocks_the_tool_until_it_is_taken_back() -> None:
    newer = definition("a", "two")
    rules = replace(SHARED, on_change=OnChange.BLOCK)
    rows = stored("a")

    (blocked,) = reconcile(ToolSnapshot((newer,)), rows, rules).updates
    stored_blocked = {
        "a": replace(stored("a", SELECTED, DISABLED, pending="two")["a"], is_blocked=True)
    }
    back = reconcile(ToolSnapshot((definition("a"),)), stored_blocked, rules)
    accepted = reconcile(ToolSnapshot((newer,)), stored_blocked, REVIEWED)
    again = reconcile(ToolSnapshot((newer,)), stored_blocked, rules)

    assert blocked == update(rows, "a", SELECTED, DISABLED, hold=newer, blocked=True)
    assert back.updates == (update(stored_blocked, "a", SELECTED, ACTIVE),)
    assert accepted.updates == (update(stored_blocked, "a", SELECTED, ACTIVE, serve=newer),)
    assert again.updates == ()


def test_a_rejected_definition_is_not_brought_up_again_until_it_changes_once_more() -> None:
    rows = {"a": replace(stored("a")["a"], seen_hash="two")}
    third = definition("a", "three")

    same = reconcile(ToolSnapshot((definition("a", "two"),)), rows, SHARED)
    other = reconcile(ToolSnapshot((third,)), rows, SHARED)
    back = reconcile(ToolSnapshot((definition("a"),)), rows, SHARED)

    assert same.updates == ()
    assert other.updates == (update(rows, "a", SELECTED, ACTIVE, hold=third),)
    assert back.updates == (update(rows, "a", SELECTED, ACTIVE),)


def test_what_was_rejected_does_not_come_back_served() -> None:
    rows = {"a": replace(stored("a", STALE)["a"], seen_hash="two")}

    changes = reconcile(ToolSnapshot((definition("a", "two"),)), rows, SHARED)

    assert changes.updates == (update(rows, "a", UNSELECTED, DRAFT, keeps_pending=True),)


def test_only_changed_tools_need_their_definitions() -> None:
    rows = stored("a") | stored("b")

    assert changed_names(ToolSnapshot((definition("a"), definition("b", "two"))), rows) == ["b"]


def broken(*names: str) -> ToolSnapshot:
    """Return what an upstream offers whose tools cannot be taken."""
    return ToolSnapshot((), tuple(Rejection(name, "is no tool") for name in names))


@pytest.mark.requirement("R-157")
def test_a_tool_that_cannot_be_taken_any_more_is_not_gone() -> None:
    changes = reconcile(broken("a", "new"), stored("a"), SHARED)

    assert changes == Changes((), (), broken=(Rejection("a", "is no tool"),))


@pytest.mark.requirement("R-157")
def test_what_is_wrong_with_a_tool_is_written_once_and_forgotten_when_it_is_mended() -> None:
    rows = {"a": replace(stored("a")["a"], sync_error="is no tool")}

    assert reconcile(broken("a"), rows, SHARED).is_nothing
    mended = reconcile(ToolSnapshot((definition("a"),)), rows, SHARED)
    assert mended == Changes((), (), mended=("a",))


def test_what_was_held_is_served_once_changes_are_accepted_unseen() -> None:
    rows = stored("a", text="one", pending="two")

    held = reconcile(ToolSnapshot((definition("a", "two"),)), rows, SHARED)
    accepted = reconcile(ToolSnapshot((definition("a", "two"),)), rows, PRIVATE)

    assert held.is_nothing
    (change,) = accepted.updates
    assert (change.serve, change.keeps_pending) == (definition("a", "two"), False)
